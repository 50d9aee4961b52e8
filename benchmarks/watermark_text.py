"""Compares our text marks with the strongest published ones, on the same logits.

Texts are drawn from 256 words whose probabilities follow Zipf's law and are shuffled for every token. Schemes are
compared in cells: combinations of an entropy (set by the law's exponent), a text length and a false positive rate. All
schemes use the same logits and key, but only our mark carries an id (48 bits). In a cell, our mark counts as worse than
a peer's if it is detected significantly less often (one-sided exact McNemar test, 95 %). Also measured: how often the
id is read, with and without replaced tokens; the distribution of tokens (chi-square); the perplexity; and the time to
draw from 50,000 words on one core, with and without AVX-512.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import ROOT, certify, measure_all, progress_file, provenance
from benchmarks.statistics import chi_squared_p, interval, is_below
from deepseek.watermark.keys import WatermarkKey, derive_key
from deepseek.watermark.text.detection import detect
from deepseek.watermark.text.gumbel import GumbelDetector, GumbelSampler
from deepseek.watermark.text.kgw import KgwDetector, KgwSampler
from deepseek.watermark.text.reed_solomon import ID_BITS, IdCode
from deepseek.watermark.text.scheme import Detector, Sampler, draw_from, softmax
from deepseek.watermark.text.synthid import SynthIdDetector, SynthIdSampler

ENTROPIES = (0.7, 1.0, 1.4, 2.0)
LENGTHS = (50, 100, 200, 400)
LEVELS = (1e-3, 1e-6)
NUM_WORDS = 256
ID_ENTROPY, ID_LENGTH, PROOF_LENGTH = 1.4, 400, 200
REPLACED = 0.1
RANKS = (0, 1, 2, 3, 4, 8, 16, 64)
"""First rank of each class of ranks. Tokens are counted per class; the likeliest token has rank 0."""

SPEED_VOCABULARY = 50_000
SCHEMES = ("ours", "synthid", "kgw")


class Remembering(GumbelDetector):
    """A detector that computes the evidence in each token once, and reuses it for all prefixes of a text."""

    def __init__(self, key: WatermarkKey, code: IdCode) -> None:
        super().__init__(key, code)
        self._known: dict[tuple[tuple[int, ...], int], np.ndarray] = {}

    def nats(self, context: tuple[int, ...], token: int) -> np.ndarray:
        """See `GumbelDetector.nats`."""
        if (context, token) not in self._known:
            self._known[context, token] = super().nats(context, token)
        return self._known[context, token]


def zipf(entropy: float) -> np.ndarray:
    """Returns the logits of a Zipf distribution with the given entropy, in nats. Bisection finds the exponent."""
    ranks, low, high = np.log(np.arange(1, NUM_WORDS + 1)), 0.0, 20.0
    for _ in range(80):
        exponent = (low + high) / 2
        p = softmax(-exponent * ranks)
        low, high = (exponent, high) if -(p * np.log(np.maximum(p, 1e-300))).sum() > entropy else (low, exponent)
    return -exponent * ranks


def key_of(number: int) -> WatermarkKey:
    """Returns a different key for every text."""
    return derive_key(number.to_bytes(32, "big"), tenant="benchmark", modality="text", epoch=0)


def sampler_of(scheme: str, key: WatermarkKey, message: int, code: IdCode, random: np.random.Generator) -> Sampler:
    """Returns a sampler of a scheme; only our scheme uses the message."""
    if scheme == "ours":
        return GumbelSampler(key, message, code, random)
    return SynthIdSampler(key, random) if scheme == "synthid" else KgwSampler(key, random)


def detector_of(scheme: str, key: WatermarkKey, code: IdCode) -> Detector:
    """Returns the detector of a scheme."""
    if scheme == "ours":
        return Remembering(key, code)
    return SynthIdDetector(key) if scheme == "synthid" else KgwDetector(key)


def measure_text(entropy: float, number: int) -> dict[str, Any]:
    """Draws one text per scheme, and returns p-values by length; for our scheme, also ids read and token statistics."""
    code, key = _code(), key_of(number)
    case = np.random.default_rng([number, round(entropy * 100)])
    message = int(case.integers(1 << ID_BITS))
    logits_V = zipf(entropy)
    logits_NV = np.stack([case.permutation(logits_V) for _ in range(max(LENGTHS))])
    found: dict[str, Any] = {"entropy": entropy, "number": number, "log_p": {}}
    for scheme in SCHEMES:
        sampler = sampler_of(scheme, key, message, code, np.random.default_rng(number))
        tokens = [sampler.draw(one_V) for one_V in logits_NV]
        detector = detector_of(scheme, key, code)
        detections = [detect(detector, tokens[:length], spans=False) for length in LENGTHS]
        found["log_p"][scheme] = [one.log_p for one in detections]
        if scheme == "ours":
            replaced = list(tokens)
            for position in case.choice(len(tokens), round(REPLACED * len(tokens)), replace=False):
                replaced[position] = int(case.integers(NUM_WORDS))
            after = detect(detector, replaced, spans=False)
            found["exact"] = [one.id == message for one in detections]
            found["exact_replaced"], found["log_p_replaced"] = after.id == message, after.log_p
            found["num_wrong"] = sum(one.id not in (None, message) for one in (*detections, after))
            ranks = [int((one_V > one_V[t]).sum()) for one_V, t in zip(logits_NV, tokens, strict=True)]
            found["ranks"] = np.bincount(np.searchsorted(RANKS, ranks, "right") - 1, minlength=len(RANKS)).tolist()
            p_NV = [softmax(one_V) for one_V in logits_NV]
            found["surprise"] = float(np.mean([-math.log(p_V[t]) for p_V, t in zip(p_NV, tokens, strict=True)]))
    return found


_codes: list[IdCode] = []


def _code() -> IdCode:
    """Returns the error-correcting code for ids, which is built once per process."""
    if not _codes:
        _codes.append(IdCode())
    return _codes[0]


def chi_squared(texts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Tests whether the ranks of the tokens in all texts with our mark follow the model's probabilities."""
    statistic, freedom, num_draws = 0.0, 0, 0
    for entropy in ENTROPIES:
        counts = np.sum([text["ranks"] for text in texts if text["entropy"] == entropy], axis=0)
        expected = counts.sum() * np.add.reduceat(softmax(zipf(entropy)), RANKS)
        statistic += float(((counts - expected) ** 2 / expected).sum())
        freedom += len(RANKS) - 1
        num_draws += int(counts.sum())
    p = chi_squared_p(statistic, freedom)
    return {"chi_squared": statistic, "chi_squared_freedom": freedom, "chi_squared_p": p, "draws": num_draws}


def speed(num_tokens: int) -> dict[str, float]:
    """Returns the median time in which our scheme draws a token from a large vocabulary on one core.

    Also returns our scheme's median time if all tokens have equal probabilities. The times of the other schemes, and of
    drawing without a mark, are returned as multiples of ours.
    """
    random = np.random.default_rng(0)
    draws: dict[str, Callable[[np.ndarray], int]] = {
        scheme: sampler_of(scheme, key_of(0), 1, _code(), random).draw for scheme in SCHEMES
    }
    draws["unmarked"] = lambda logits_V: draw_from(softmax(logits_V), random)
    draw_flat, flat_V = sampler_of("ours", key_of(1), 1, _code(), random).draw, np.zeros(SPEED_VOCABULARY, np.float32)
    draws["flat"] = lambda _: draw_flat(flat_V)
    seconds: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(num_tokens):
        logits_V = random.normal(0, 3, SPEED_VOCABULARY).astype(np.float32)
        for name, draw in draws.items():
            start = time.perf_counter()
            draw(logits_V)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(some)) for name, some in seconds.items()}
    ours, flat = medians.pop("ours"), medians.pop("flat")
    return {"ms_per_token": ours * 1000, "ms_per_token_flat": flat * 1000} | {
        f"draw_times_{name}": other / ours for name, other in medians.items()
    }


def speed_without_avx512(num_tokens: int) -> dict[str, float]:
    """Returns our scheme's median times without NumPy's AVX-512 code. They are measured in a separate process."""
    found = np.show_config("dicts")["SIMD Extensions"].get("found", [])
    disabled = " ".join(name for name in found if name == "X86_V4" or name.startswith("AVX512"))
    program = f"import json, benchmarks.watermark_text as b; print(json.dumps(b.speed({num_tokens})))"
    command = [sys.executable, "-c", program]
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": disabled}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    times = json.loads(done.stdout)
    return {f"{name}_no_avx512": times[name] for name in ("ms_per_token", "ms_per_token_flat")}


def summary(texts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns summary statistics of the records of all texts."""
    cells: list[dict[str, Any]] = []
    ids: list[dict[str, Any]] = []
    for entropy in ENTROPIES:
        of_cell = [text for text in texts if text["entropy"] == entropy]
        for index, length in enumerate(LENGTHS):
            told = [text["exact"][index] for text in of_cell]
            ids.append({"entropy": entropy, "tokens": length, "exact": float(np.mean(told)) if told else None})
            for level in LEVELS:
                hits = {
                    scheme: [text["log_p"][scheme][index] <= math.log(level) for text in of_cell] for scheme in SCHEMES
                }
                cells.append(
                    {"entropy": entropy, "tokens": length, "fpr": level}
                    | {f"tpr_{scheme}": float(np.mean(hit)) if hit else None for scheme, hit in hits.items()}
                    | {f"below_{scheme}": is_below(hits["ours"], hits[scheme]) for scheme in SCHEMES[1:]}
                )
    of_id = [text for text in texts if text["entropy"] == ID_ENTROPY]
    at_proof, at_id = LENGTHS.index(PROOF_LENGTH), LENGTHS.index(ID_LENGTH)
    shares = {
        "tpr_1e6_200tok": [text["log_p"]["ours"][at_proof] <= math.log(1e-6) for text in of_id],
        "id_exact_400tok": [text["exact"][at_id] for text in of_id],
        "id_exact_10pct_subst": [text["exact_replaced"] for text in of_id],
        "tpr_1e6_10pct_subst": [text["log_p_replaced"] <= math.log(1e-6) for text in of_id],
    }
    logs = np.array([text["surprise"] - text["entropy"] for text in texts])
    half = 1.96 * logs.std(ddof=1) / math.sqrt(len(logs)) if len(logs) > 1 else math.inf
    return {
        "n": len(of_id),
        **{name: float(np.mean(hits)) for name, hits in shares.items()},
        **{f"{name}_interval": interval(sum(hits), len(hits)) for name, hits in shares.items()},
        "cells_below_synthid": sum(cell["below_synthid"] for cell in cells),
        "cells_below_kgw": sum(cell["below_kgw"] for cell in cells),
        "wrong_ids": sum(text["num_wrong"] for text in texts),
        "detections": sum(len(text["exact"]) + 1 for text in texts),
        "perplexity_ratio": math.exp(logs.mean()),
        "perplexity_ratio_interval": [math.exp(logs.mean() - half), math.exp(logs.mean() + half)],
        "cells": cells,
        "ids": ids,
    }


def write_figure(path: Path, result: Mapping[str, Any]) -> None:
    """Draws the shares of marks found (at a false positive rate of 1e-6) and of ids read, by entropy and length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), dpi=120, layout="constrained")
    names = {"tpr_ours": "ours, with an id", "tpr_synthid": "SynthID-Text", "tpr_kgw": "KGW", "exact": "ours: id read"}
    panels: Any = figure.subplots(1, len(ENTROPIES), sharey=True)
    for panel, entropy in zip(panels, ENTROPIES, strict=True):
        cells = [one for one in result["cells"] if one["entropy"] == entropy and one["fpr"] == LEVELS[-1]]
        ids = [one for one in result["ids"] if one["entropy"] == entropy]
        for key, label in names.items():
            rates = np.array([one[key] for one in (ids if key == "exact" else cells)])
            low, high = np.array([interval(round(rate * result["n"]), result["n"]) for rate in rates]).T
            errors, style = np.maximum([rates - low, high - rates], 0), "--" if key == "exact" else "-"
            panel.errorbar(LENGTHS, rates, errors, label=label, linestyle=style, marker="o", markersize=4, capsize=3)
        panel.set_xscale("log", base=2)
        panel.set_xticks(LENGTHS, [str(length) for length in LENGTHS])
        panel.set(title=f"{entropy} nat per token", xlabel="tokens", ylim=(-0.03, 1.03))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"detected at 1e-6, of {result['n']} texts")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names), frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Runs the benchmark, prints the result, and certifies it if this was a full run on a clean working tree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watermark_text", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, as the last line")
    parser.add_argument("--quick", action="store_true", help="run for less than a minute; certify nothing")
    arguments = parser.parse_args()
    num_texts, num_tokens = (12, 100) if arguments.quick else (2000, 1000)
    start = provenance()
    cache = None if arguments.quick else progress_file("watermark_text", start, "full")
    times = speed(num_tokens) | speed_without_avx512(num_tokens)
    cases = [(entropy, number) for number in range(num_texts) for entropy in ENTROPIES]
    with futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        texts = list(
            measure_all(pool, measure_text, cases, case_of=lambda text: (text["entropy"], text["number"]), cache=cache)
        )
    result = {
        **summary(texts),
        **chi_squared(texts),
        **times,
        **start,
    }
    if cache:
        cache.unlink()
    certify("watermark_text", result, full=not arguments.quick)
    if not arguments.quick and not result["changed"]:
        write_figure(ROOT / "docs" / "figures" / "watermark_text.png", result)
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            if name not in ("cells", "ids"):
                print(f"{name:<30} {value}")
        for cell in (*result["cells"], *result["ids"]):
            print("  ".join(f"{name} {value}" for name, value in cell.items()))


if __name__ == "__main__":
    main()
