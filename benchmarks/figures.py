"""Tables of certified figures in the documentation, generated from docs/results.

A document holds a table between two markers, `<!-- figures:NAME -->` and `<!-- /figures -->`. `make figures` renders
all tables, and `make check` fails if one is out of date. Certified figures appear only in these tables, never in prose.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_BLOCK = re.compile(r"<!-- figures:(\w+) -->\n.*?<!-- /figures -->", re.DOTALL)


@dataclass(frozen=True)
class Figure:
    """One row of a table.

    Args:
        label: Description of the measured quantity.
        key: Key of the value in the result.
        unit: Unit of the value, after scaling.
        scale: Factor that converts the value from the result's unit to `unit`.
        decimals: Number of digits after the decimal point.
        interval: Key of the interval in the result; empty if there is none.
    """

    label: str
    key: str
    unit: str = ""
    scale: float = 1
    decimals: int = 0
    interval: str = ""

    def value(self, result: Mapping[str, Any]) -> str:
        return f"{self._number(result[self.key])} {self.unit}".strip()

    def spread(self, result: Mapping[str, Any]) -> str:
        if not self.interval:
            return ""
        low, high = result[self.interval]
        return f"{self._number(low)} to {self._number(high)}"

    def _number(self, value: float) -> str:
        return f"{value * self.scale:,.{self.decimals}f}"


@dataclass(frozen=True)
class FigureTable:
    """A table of figures from one certified result.

    Args:
        area: Name of the result, docs/results/<area>.json.
        cases: Plural noun for the items that the result's `n` counts, such as `trials`.
        figures: Rows of the table.
        spread: Heading of the column that holds the intervals.
    """

    area: str
    cases: str
    figures: tuple[Figure, ...]
    spread: str = "95 % interval"

    def render(self, result: Mapping[str, Any]) -> str:
        has_spread = any(figure.interval for figure in self.figures)
        head = ["measured", "value", *([self.spread] if has_spread else [])]
        rows = [
            [figure.label, figure.value(result), *([figure.spread(result)] if has_spread else [])]
            for figure in self.figures
        ]
        lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
        return "\n".join([*lines, "", *self._provenance(result)])

    def _provenance(self, result: Mapping[str, Any]) -> Iterator[str]:
        instruction_set = f" ({result['instruction_set']})" if result["instruction_set"] else ""
        yield f"n = {result['n']:,} {self.cases}; processor {result['cpu']}{instruction_set};"
        yield f"commit {result['commit'][:12]}."


_EXACT = "Ids read correctly after "
TABLES = {
    "demo": FigureTable(
        "processors",
        "runs",
        (
            Figure("Test questions answered correctly, worst run", "test_accuracy", "%", 100, 2),
            Figure("Training time, median", "train_s", "s", 1, 1),
            Figure("Time of the whole demo, median", "total_s", "s", 1, 1),
        ),
    ),
    "demo_bf16": FigureTable(
        "demo",
        "runs",
        (
            Figure("Training time", "train_s", "s", 1, 1),
            Figure("Time of the whole demo", "total_s", "s", 1, 1),
        ),
    ),
    "precision": FigureTable(
        "processors",
        "runs",
        (
            Figure("Step time with `auto` / with the best fixed format, worst network", "auto_vs_best", "", 1, 3),
            Figure("Training time before", "train_s_before", "s", 1, 1),
            Figure("Time of the whole demo before", "total_s_before", "s", 1, 1),
            Figure(
                "Training time now / before",
                "train_ratio_to_before",
                "",
                1,
                2,
                interval="train_ratio_to_before_interval",
            ),
            Figure(
                "Time of one epoch now / before",
                "epoch_ratio_to_before",
                "",
                1,
                2,
                interval="epoch_ratio_to_before_interval",
            ),
            Figure("Epochs now", "epochs"),
            Figure("Epochs before", "epochs_before"),
            Figure(
                "Time of two runs submitted together / one after the other",
                "two_runs_vs_sequential",
                "",
                1,
                3,
                interval="two_runs_vs_sequential_interval",
            ),
        ),
        spread="range of runs",
    ),
    "int8": FigureTable(
        "processors",
        "runs",
        (
            Figure("Loads of versions with a file that saturates, with AVX-512 and AVX2", "files_loaded"),
            Figure("Loads after which a file with wrong answers was served", "wrong_files_served"),
        ),
    ),
    "startup": FigureTable(
        "startup",
        "rounds",
        (
            Figure("`deepseek up` until all services are ready", "up_s", "s", 1, 2),
            Figure("`deepseek up` now / before", "up_ratio", "", 1, 2, interval="up_ratio_interval"),
            Figure("`--help` of the registry", "help_s", "s", 1, 2),
            Figure("`--help` now / before", "help_ratio", "", 1, 2, interval="help_ratio_interval"),
        ),
    ),
    "mesh": FigureTable(
        "mesh",
        "rounds",
        (
            Figure(
                "Median time of a call / of the same call to a bare grpcio server",
                "interceptor_overhead_ratio",
                "",
                1,
                2,
                interval="interceptor_overhead_interval",
            ),
            Figure("Concurrent clients under load", "concurrent_clients"),
            Figure("Duration of the load", "load_s", "s"),
            Figure("Errors under load", "errors"),
            Figure("Memory growth of the server after 10 s of warm-up", "memory_growth", "%", 100, 1),
        ),
    ),
    "faults": FigureTable(
        "faults",
        "trials",
        (
            Figure("Acknowledged writes", "acknowledged_writes"),
            Figure("Acknowledged writes that were lost", "lost_writes"),
            Figure("Artifacts that were torn", "torn_reads"),
            Figure("Effects that happened twice", "double_writers"),
            Figure("Jobs that were unfinished or had another result", "unfinished_jobs"),
            Figure("Restarts of services", "restarts"),
            Figure("Time until ready, 95th percentile", "p95_restart_s", "s", 1, 2, interval="p95_restart_s_interval"),
            Figure("Time until ready, maximum", "max_restart_s", "s", 1, 2),
        ),
    ),
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


def documents() -> list[Path]:
    """Returns the documents that may hold tables of figures."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def certified(area: str) -> dict[str, Any]:
    """Returns the certified result of an area."""
    result: dict[str, Any] = json.loads((ROOT / "docs" / "results" / f"{area}.json").read_text(encoding="utf-8"))
    return result


def rendered(text: str) -> str:
    """Returns a document with all its tables rendered from the certified results.

    Raises:
        ValueError: The document names an unknown table.
    """

    def block(match: re.Match[str]) -> str:
        name = match[1]
        if name not in TABLES:
            raise ValueError(f"unknown table of figures '{name}'; known: {', '.join(sorted(TABLES))}")
        table = TABLES[name]
        return f"<!-- figures:{name} -->\n{table.render(certified(table.area))}\n<!-- /figures -->"

    return _BLOCK.sub(block, text)


def prose(text: str) -> str:
    """Returns a document without its tables of figures."""
    return _BLOCK.sub("", text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table is stale")
    check = parser.parse_args().check
    stale = False
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if (current := rendered(text)) == text:
            continue
        stale = True
        if not check:
            path.write_text(current, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'stale figures: run make figures' if check else 'updated'}", file=sys.stderr)
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
