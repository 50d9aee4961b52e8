"""The features of our scheme that others lack: ids, and two alternating keys."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from deepseek.watermark.arrays import uniforms
from deepseek.watermark.keys import derive_key
from deepseek.watermark.tail_bounds import log_erlang_bound, log_erlang_tail
from deepseek.watermark.text.gumbel import CARRIED, HEAD_SHARE, GumbelDetector, GumbelSampler, _head, _Scores
from deepseek.watermark.text.reed_solomon import IdCode
from deepseek.watermark.text.scheme import Bits, scored

CODE = IdCode()
SIMD = np.show_config("dicts")["SIMD Extensions"].get("found", [])
KEY = derive_key(bytes(32), tenant="lab", modality="text", epoch=0)
MESSAGE = 0xC0FFEE_123456


def marked(num_tokens: int, *, spread: float = 4.0, seed: int = 0, message: int = MESSAGE) -> list[int]:
    sampler = GumbelSampler(KEY, message, CODE, np.random.default_rng(seed))
    random = np.random.default_rng(seed)
    return [sampler.draw(random.permutation(np.linspace(0, spread, 64))) for _ in range(num_tokens)]


@pytest.mark.parametrize("message", [0, MESSAGE, (1 << 48) - 1])
def test_the_id_is_read(message: int) -> None:
    evidence = GumbelDetector(KEY, CODE).weigh(marked(250, message=message))
    assert evidence.id == message
    assert evidence.log_p_id < math.log(1e-6)
    assert evidence.log_p_wrong < math.log(1e-6)


def test_the_id_is_read_after_words_were_replaced() -> None:
    tokens, random = marked(400), np.random.default_rng(3)
    for position in random.choice(400, 40, replace=False):
        tokens[position] = int(random.integers(64))
    evidence = GumbelDetector(KEY, CODE).weigh(tokens)
    assert evidence.id == MESSAGE
    assert max(evidence.log_p, evidence.log_p_wrong) < math.log(1e-6)


def test_short_text_proves_the_mark_before_it_carries_an_id() -> None:
    detector = GumbelDetector(KEY, CODE)
    short, longer = detector.weigh(marked(22)), detector.weigh(marked(300))
    assert short.log_p < math.log(1e-6)
    assert short.log_p_id > math.log(1e-3)
    assert longer.log_p_id < math.log(1e-6)


def test_no_id_is_proved_in_text_without_one() -> None:
    random = np.random.default_rng(4)
    detector = GumbelDetector(KEY, CODE)
    for _ in range(30):
        evidence = detector.weigh(random.integers(64, size=200).tolist())
        assert evidence.log_p_id > math.log(1e-3)


def test_evidence_of_a_wrong_id_is_chance() -> None:
    """This includes words that share symbols, and so evidence, with the word of the text."""
    detector, random = GumbelDetector(KEY, CODE), np.random.default_rng(5)
    word, bounds = CODE.encode(MESSAGE), []
    for case in range(60):
        scores = _Scores()
        scores.counts_P += 10
        scores.nats_PV += random.gamma(10, size=scores.nats_PV.shape).astype(np.float32)
        num_known = case % 3
        scores.nats_PV[np.arange(num_known), word[:num_known]] += 200
        evidence = detector._decoded(scores)
        assert evidence.id != MESSAGE
        bounds.append(evidence.log_p_wrong)
    # Exceeded once in 10,000 times if the probability is at its bound (binomial, n = 60).
    assert sum(bound <= math.log(0.1) for bound in bounds) <= 15
    assert sum(bound <= math.log(0.02) for bound in bounds) <= 6


def test_the_beginning_of_a_text_proves_nothing_by_chance() -> None:
    random = np.random.default_rng(6)
    log_ps = [_head(random.exponential(size=120).tolist())[1] for _ in range(3000)]
    # Exceeded once in 10,000 times if the probability is at its bound (binomial, n = 3,000).
    assert sum(log_p <= math.log(0.1) for log_p in log_ps) <= 362
    assert sum(log_p <= math.log(0.01) for log_p in log_ps) <= 52


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 17, 18, 19, 26])
def test_very_short_text_has_hardly_any_evidence(num_tokens: int) -> None:
    evidence = GumbelDetector(KEY, CODE).weigh(list(range(num_tokens)))
    assert evidence.num_scored == max(0, num_tokens - 2)
    assert evidence.log_p > math.log(1e-3)
    assert evidence.log_p_wrong > math.log(1e-3)


def tails(tokens: list[int]) -> tuple[float, float]:
    """Returns the log p-values of a whole text: that of the proof, and that of its id among all ids."""
    detector, word = GumbelDetector(KEY, CODE), CODE.encode(MESSAGE)
    found = [(context, token) for _, context, token in scored(tokens)]
    proof = sum(-math.log(detector._proving.one(context, token)) for context, token in found)
    carried = sum(
        -math.log(detector._carrying.one(context, int(word[detector._carrying.position(context)]) + token))
        for context, token in found
    )
    return log_erlang_tail(len(found), proof), 48 * math.log(2) + log_erlang_tail(len(found), carried)


def test_a_proof_remains_in_the_beginning() -> None:
    tokens = marked(150, spread=50, seed=1)
    proof, carried = tails(tokens)
    assert min(proof, carried) > math.log(1e-6)
    evidence = GumbelDetector(KEY, CODE).weigh(tokens)
    assert evidence.log_p < math.log(1e-6)
    detector = GumbelDetector(KEY, CODE)
    head = _head([-math.log(detector._proving.one(context, token)) for _, context, token in scored(tokens)])
    assert evidence.log_p == pytest.approx(head[1] - math.log(HEAD_SHARE))


def test_an_id_is_found_after_the_beginning() -> None:
    tokens = marked(260, spread=50, seed=4)
    assert tails(tokens)[1] > math.log(1e-6)
    evidence = GumbelDetector(KEY, CODE).weigh(tokens)
    assert evidence.id == MESSAGE
    assert evidence.log_p_wrong < math.log(1e-6)


def test_a_passage_of_a_long_text_has_its_own_mark() -> None:
    tokens = marked(900)
    for start in (250, 500):
        evidence = GumbelDetector(KEY, CODE).weigh(tokens[start : start + 300])
        assert evidence.id == MESSAGE
        assert max(evidence.log_p, evidence.log_p_wrong) < math.log(1e-6)


def test_a_vocabulary_larger_than_a_symbol_has_values() -> None:
    sampler = GumbelSampler(KEY, MESSAGE, CODE, np.random.default_rng(0))
    random = np.random.default_rng(0)
    tokens = []
    for _ in range(120):
        logits_V = np.full(150_000, -np.inf, np.float32)
        logits_V[random.integers(150_000, size=200)] = 0.0
        tokens.append(sampler.draw(logits_V))
    evidence = GumbelDetector(KEY, CODE).weigh(tokens)
    assert evidence.id == MESSAGE
    assert evidence.log_p_id < math.log(1e-6)


def test_observing_tokens_leads_to_the_same_state_as_drawing_them() -> None:
    tokens, random = marked(40), np.random.default_rng(0)
    watching = GumbelSampler(KEY, MESSAGE, CODE)
    for token in tokens:
        logits_V = random.permutation(np.linspace(0, 4.0, 64))
        if watching.has_mark:
            assert watching.choose(logits_V) == token
        watching.observe(token)


def test_words_and_draws_never_change() -> None:
    """Otherwise, marks of earlier releases or of other languages could not be detected."""
    assert [hex(word) for word in Bits(KEY, "gumbel/prove").words((7, 70_000), 3, 2)] == [
        "0x748e1cce2a1f533f",
        "0x624cb26e5319e07b",
    ]
    sampler = GumbelSampler(KEY, 0xABCDEF, CODE, np.random.default_rng(0))
    for token in (1, 2):
        sampler.observe(token)
    logits_V = np.linspace(0, 3, 1000)
    assert [sampler.draw(logits_V) for _ in range(60)][::6] == [958, 370, 723, 928, 497, 976, 701, 696, 796, 918]


def test_uniforms_are_the_upper_bits_of_the_words() -> None:
    bits = Bits(KEY, "gumbel/prove")
    for start, count in ((0, 1), (3, 2), (70_001, 5), (8, 1000)):
        words = bits.words((7, 70_000), start, count)
        assert bits.uniforms((7, 70_000), start, count).tolist() == uniforms(words).tolist()


@pytest.mark.parametrize(
    "disabled",
    [
        pytest.param([], id="as it is"),
        pytest.param([name for name in SIMD if "AVX512" in name or name == "X86_V4"], id="without AVX-512"),
        pytest.param(SIMD, id="without any extension"),
    ],
)
def test_draws_are_the_same_on_every_processor(disabled: list[str]) -> None:
    """NumPy computes logarithms differently without AVX-512, and again without AVX2."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.deepseek.watermark.text.drawn"],
        env=os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(disabled)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not set(found.pop("simd")) & set(disabled)
    assert found == {
        "flat": [2207, 30540, 23012, 37970, 49728, 30438, 12582, 49514],
        "ten nats": [2207, 26938, 25421, 45849, 12519, 43856, 19488, 30092],
        "forty nats": [11200, 25020, 7115, 41558, 37816, 35601, 17592, 34179],
        "fifty words": [18016, 27264, 32593, 22599, 42735, 627, 49861, 35196],
    }


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 10, 40, 100, 1000, 4096, 4097, 100_000])
def test_an_id_is_carried_if_the_tail_is_below_the_threshold(num_tokens: int) -> None:
    """In most cases a bound decides, so few tails are computed."""
    sampler = GumbelSampler(KEY, MESSAGE, CODE)
    tail = log_erlang_tail if num_tokens <= 4096 else log_erlang_bound
    decisions = set()
    for excess in (1e-9, 0.5, 1.0, *np.linspace(1, 1 + 60 / math.sqrt(num_tokens), 2000), 200.0):
        sampler._num_scored, sampler._carried = num_tokens, num_tokens * excess
        expected = 48 * math.log(2) + tail(num_tokens, sampler._carried) <= CARRIED
        assert sampler._is_carried() == expected
        decisions.add(expected)
    assert decisions == {False, True}
