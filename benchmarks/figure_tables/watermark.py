"""Tables of the watermarks."""

from benchmarks.figure_tables.table import Figure, FigureTable

_EXACT = "Ids read correctly after "
TABLES = {
    "watermark_image": FigureTable(
        "watermark_image",
        "images",
        (
            Figure("Peak signal-to-noise ratio, mean", "psnr_db", "dB", 1, 1),
            Figure("Peak signal-to-noise ratio, minimum", "psnr_db_min", "dB", 1, 1),
            Figure(
                f"{_EXACT}the worst attack, a crop to half", "worst_attack_exact", "%", 100, 2, "worst_attack_interval"
            ),
            Figure("Wrong ids", "wrong_ids"),
            Figure("Attacks after which another mark is significantly better", "attacks_behind_peers"),
            Figure(f"{_EXACT}subtraction of the mean tile", "tile_averaging_exact", "%", 100, 1),
            Figure(f"{_EXACT}subtraction of the mean of 100 marked images", "many_averaging_exact", "%", 100, 1),
            Figure("Independent images without a mark", "fpr_images"),
            Figure("Pairs of such an image and a key", "fpr_pairs"),
            Figure("Pairs reported as marked", "false_alarms"),
            Figure("Upper bound of that rate (95 %)", "fpr_upper", "in 100,000", 1e5, 1),
            Figure("Uniformity of p-values, images without a mark: p (Kolmogorov-Smirnov)", "ks_null", "", 1, 3),
            Figure("Uniformity of p-values, wrong keys: p (Kolmogorov-Smirnov)", "ks_wrong_key", "", 1, 2),
        ),
    ),
    "watermark_attacks": FigureTable(
        "watermark_attacks",
        "images",
        (
            Figure(f"{_EXACT}the worst attack", "worst_attack_exact", "%", 100, 2, "worst_attack_interval"),
            Figure("Wrong ids", "wrong_ids"),
            Figure("Peak signal-to-noise ratio, mean", "psnr_db", "dB", 1, 1),
            Figure("Peak signal-to-noise ratio, minimum", "psnr_db_min", "dB", 1, 1),
            Figure("Structural similarity, mean", "ssim", "", 1, 3),
            Figure("Structural similarity, minimum", "ssim_min", "", 1, 3),
            Figure("Time to mark a 512 x 512 image on one core", "embed_ms", "ms"),
            Figure("Time to read its mark if it was not moved", "detect_ms", "ms"),
            Figure("Speed of marking relative to blind-watermark", "embed_times_blind_watermark", "x", 1, 1),
            Figure("Speed of reading relative to blind-watermark", "detect_times_blind_watermark", "x", 1, 1),
            Figure("Time to search an image without a mark, 95th percentile", "search_p95_ms", "ms"),
        ),
    ),
    "watermark_text": FigureTable(
        "watermark_text",
        "texts",
        (
            Figure("Texts detected by 200 tokens", "tpr_1e6_200tok", "%", 100, 1, "tpr_1e6_200tok_interval"),
            Figure("Ids read correctly by 400 tokens", "id_exact_400tok", "%", 100, 1, "id_exact_400tok_interval"),
            Figure(
                "Texts detected after a tenth of 400 tokens was replaced",
                "tpr_1e6_10pct_subst",
                "%",
                100,
                1,
                "tpr_1e6_10pct_subst_interval",
            ),
            Figure(
                "Ids read correctly after a tenth of 400 tokens was replaced",
                "id_exact_10pct_subst",
                "%",
                100,
                1,
                "id_exact_10pct_subst_interval",
            ),
            Figure("Detections", "detections"),
            Figure("Wrong ids", "wrong_ids"),
            Figure("Cells significantly below SynthID-Text", "cells_below_synthid"),
            Figure("Cells significantly below KGW", "cells_below_kgw"),
            Figure("Drawn tokens compared with the model's probabilities", "draws"),
            Figure("Agreement with these probabilities: p (chi-square)", "chi_squared_p", "", 1, 2),
            Figure(
                "Perplexity of marked / unmarked text",
                "perplexity_ratio",
                "",
                1,
                4,
                interval="perplexity_ratio_interval",
            ),
            Figure("Time to draw a token from 50,000 on one core", "ms_per_token", "ms", 1, 2),
            Figure("Time of SynthID-Text / ours", "draw_times_synthid", "", 1, 1),
            Figure("Time of KGW / ours", "draw_times_kgw", "", 1, 1),
            Figure("Time without a mark / ours", "draw_times_unmarked", "", 1, 1),
        ),
    ),
}
