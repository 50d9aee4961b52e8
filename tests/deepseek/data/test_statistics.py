"""Statistics, drift and the set of keys."""

from collections import Counter

import numpy as np
import pytest

from deepseek.data import key_set
from deepseek.data.drift import ks, psi, psi_of_numbers
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.data.statistics import RESERVOIR_VALUES, FieldStatistics, Statistics

FIELDS = (Field("n", "number"), Field("kind", "label", labels=("a", "b")), Field("words", "text", repeated=True))


def test_moments_and_counts_are_those_of_numpy() -> None:
    numbers = np.random.default_rng(0).normal(5, 2, 3 * RESERVOIR_VALUES)
    found = Statistics(FIELDS)
    for i, number in enumerate(numbers):
        found.add(Sample(str(i), "test" if i % 3 else "train", {"n": number, "kind": "ab"[i % 2], "words": ["", "xy"]}))
    one = found.fields["n"]
    assert (one.minimum, one.maximum) == (numbers.min(), numbers.max())
    assert one.mean == pytest.approx(numbers.mean())
    assert one.deviation == pytest.approx(numbers.std(ddof=1))
    assert len(one.reservoir) == RESERVOIR_VALUES
    assert ks(one.reservoir, list(numbers))[0] < 0.02
    assert found.fields["kind"].label_counts == {"a": 15_000, "b": 15_000}
    assert found.fields["words"].num_empty == 30_000
    assert found.splits == {"train": 10_000, "test": 20_000}


def test_equal_distributions_have_no_drift_and_shifted_ones_have() -> None:
    random = np.random.default_rng(1)
    first, second, shifted = random.normal(0, 1, 2000), random.normal(0, 1, 2000), random.normal(1, 1, 2000)
    assert psi_of_numbers(first, second) < 0.05 < 0.5 < psi_of_numbers(first, shifted)
    assert ks(first, second)[1] > 0.01
    assert ks(first, shifted)[0] == pytest.approx(0.383, abs=0.03)  # 2 Phi(1/2) - 1
    assert ks(first, shifted)[1] < 1e-12


def test_drift_is_finite_for_categories_and_constants_on_one_side_only() -> None:
    assert 0 < psi({"a": 10}, {"b": 10}) < 100
    assert psi({}, {}) == 0
    assert psi_of_numbers([1.0] * 5, [1.0] * 9) == pytest.approx(0)
    assert psi_of_numbers([1.0] * 5, [2.0] * 5) > 1
    assert psi_of_numbers([1.0] * 5, [0.0] * 5) > 1


def test_p_values_of_samples_from_one_distribution_are_uniform() -> None:
    random = np.random.default_rng(2)
    below = sum(ks(random.random(200), random.random(300))[1] < 0.1 for _ in range(300))
    assert 12 <= below <= 48


def test_a_key_set_tells_new_keys_from_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_set, "MEMORY_KEYS", 300)
    with key_set.KeySet() as keys:
        assert all(keys.add(str(i)) for i in range(2000))
        assert not any(keys.add(str(i)) for i in range(2000))
        assert keys.add("\ud800")
        assert not keys.add("\ud800")


def test_many_labels_are_summed_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Statistics([Field("kind", "label", labels=tuple(f"{i}" for i in range(1000)))])
    found.add(Sample("a", "train", {"kind": "7"}))
    summed, label_counts = [], FieldStatistics.label_counts

    def counted(field: FieldStatistics) -> Counter[str]:
        summed.append(field)
        return label_counts.fget(field)

    monkeypatch.setattr(FieldStatistics, "label_counts", property(counted))
    assert found.to_json()["fields"]["kind"]["labels"]["7"] == 1
    assert len(summed) == 1
