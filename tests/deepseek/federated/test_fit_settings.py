import json
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.federated.fit_settings import FitSettings
from deepseek.privacy.releases import Release
from deepseek.training.dp_settings import DpSgd

DP_SGD = DpSgd(noise_multiplier=1.1, max_grad_norm=1.0, expected_batch_size=16, sampling_rate=0.03)


def test_settings_are_equal_after_json() -> None:
    settings = FitSettings(2, 0.1, 10, 2, DP_SGD, figures=False)
    assert FitSettings.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert FitSettings.from_json({}) == FitSettings()


def test_the_number_of_private_steps_depends_on_public_numbers_only() -> None:
    assert FitSettings(3, dp_sgd=DP_SGD).dp_steps == 3 * 34  # 1 / 0.03, rounded up
    assert FitSettings(3).dp_steps == 0
    assert FitSettings(3, dp_sgd=DP_SGD).release == Release(1.1, 0.03, 3 * 34)
    assert FitSettings(3).release is None
    assert DP_SGD.nominal_examples == round(16 / 0.03)


@pytest.mark.parametrize(
    ("data", "reason", "field"),
    [
        ({"epochs": 1}, "UNKNOWN_FIELD", "fit.epochs"),
        ({"local_epochs": 0}, "BAD_VALUE", "fit.local_epochs"),
        ({"num_rounds": -1}, "BAD_VALUE", "fit.num_rounds"),
        ({"num_threads": 65}, "BAD_VALUE", "fit.num_threads"),
        ({"proximal_mu": -1}, "BAD_VALUE", "fit.proximal_mu"),
        ({"proximal_mu": "NaN"}, "BAD_VALUE", "fit.proximal_mu"),
        ({"figures": "no"}, "BAD_VALUE", "fit.figures"),
        ({"dp_sgd": {}}, "MISSING_FIELD", "fit.dp_sgd.noise_multiplier"),
        ({"dp_sgd": {**vars(DP_SGD), "noise_multiplier": 0}}, "BAD_NOISE", "fit.dp_sgd.noise_multiplier"),
        ({"dp_sgd": {**vars(DP_SGD), "max_grad_norm": -1}}, "BAD_VALUE", "fit.dp_sgd.max_grad_norm"),
        ({"dp_sgd": {**vars(DP_SGD), "sampling_rate": 1.5}}, "BAD_RATE", "fit.dp_sgd.sampling_rate"),
        ({"dp_sgd": {**vars(DP_SGD), "expected_batch_size": 0}}, "BAD_VALUE", "fit.dp_sgd.expected_batch_size"),
    ],
)
def test_bad_settings_are_refused_with_their_path(data: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        FitSettings.from_json(data)
    assert (caught.value.reason, caught.value.field) == (reason, field)
