"""Bad specs are refused with the path of the field, before anything is allocated."""

import tracemalloc
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.components import MODELS
from deepseek.nas.conv_space import ConvSpec
from deepseek.nas.spec_values import MAX_PARAMETERS
from deepseek.nas.transformer_space import TransformerSpec
from tests.deepseek.nas.networks import STAGE

HUGE = 10**30
LAYER = {"heads": 1, "mlp_ratio": 1}


def conv(**changes: Any) -> dict[str, Any]:
    return {"stem": 4, "stages": [STAGE], "head": 0, **changes}


def stages(**changes: Any) -> dict[str, Any]:
    return conv(stages=[STAGE, STAGE | changes])


def transformer(**changes: Any) -> dict[str, Any]:
    return {"width": 8, "layers": [LAYER], **changes}


CASES: list[tuple[Any, Any, str, str]] = [
    (ConvSpec, [], "BAD_VALUE", ""),
    (ConvSpec, None, "BAD_VALUE", ""),
    (ConvSpec, {"stem": 4, "stages": [STAGE]}, "MISSING_FIELD", "head"),
    (ConvSpec, conv(steam=1), "UNKNOWN_FIELD", "steam"),
    (ConvSpec, conv(stem=0), "BAD_VALUE", "stem"),
    (ConvSpec, conv(stem=-4), "BAD_VALUE", "stem"),
    (ConvSpec, conv(stem=HUGE), "BAD_VALUE", "stem"),
    (ConvSpec, conv(stem=True), "BAD_VALUE", "stem"),
    (ConvSpec, conv(stem="4"), "BAD_VALUE", "stem"),
    (ConvSpec, conv(stem=4.5), "BAD_VALUE", "stem"),
    (ConvSpec, conv(stem=float("nan")), "BAD_VALUE", "stem"),
    (ConvSpec, conv(stem=float("inf")), "BAD_VALUE", "stem"),
    (ConvSpec, conv(head=-1), "BAD_VALUE", "head"),
    (ConvSpec, conv(stages=[]), "BAD_VALUE", "stages"),
    (ConvSpec, conv(stages="dense"), "BAD_VALUE", "stages"),
    (ConvSpec, conv(stages=[STAGE] * 1000), "BAD_VALUE", "stages"),
    (ConvSpec, conv(stages=[STAGE, 3]), "BAD_VALUE", "stages[1]"),
    (ConvSpec, conv(stages=[{}]), "MISSING_FIELD", "stages[0].block"),
    (ConvSpec, stages(blok="dense"), "UNKNOWN_FIELD", "stages[1].blok"),
    (ConvSpec, stages(block="Dense"), "BAD_VALUE", "stages[1].block"),
    (ConvSpec, stages(block=["dense"]), "BAD_VALUE", "stages[1].block"),
    (ConvSpec, stages(depth=HUGE), "BAD_VALUE", "stages[1].depth"),
    (ConvSpec, stages(width=HUGE), "BAD_VALUE", "stages[1].width"),
    (ConvSpec, stages(kernel=4), "BAD_VALUE", "stages[1].kernel"),
    (ConvSpec, stages(kernel=99), "BAD_VALUE", "stages[1].kernel"),
    (ConvSpec, stages(expansion=0), "BAD_VALUE", "stages[1].expansion"),
    (ConvSpec, stages(skip=1), "BAD_VALUE", "stages[1].skip"),
    (ConvSpec, stages(squeeze="no"), "BAD_VALUE", "stages[1].squeeze"),
    (ConvSpec, stages(pooling=None), "BAD_VALUE", "stages[1].pooling"),
    (ConvSpec, stages(depth=16, width=1024, kernel=7, expansion=8), "BAD_VALUE", "stages"),
    (TransformerSpec, transformer(width=0), "BAD_VALUE", "width"),
    (TransformerSpec, transformer(width=HUGE), "BAD_VALUE", "width"),
    (TransformerSpec, transformer(width=7), "BAD_VALUE", "layers[0].heads"),
    (TransformerSpec, transformer(layers=[]), "BAD_VALUE", "layers"),
    (TransformerSpec, transformer(layers=[LAYER] * 10_000), "BAD_VALUE", "layers"),
    (TransformerSpec, transformer(layers=[LAYER, {"heads": 3, "mlp_ratio": 1}]), "BAD_VALUE", "layers[1].heads"),
    (TransformerSpec, transformer(layers=[{"heads": 1, "mlp_ratio": 9}]), "BAD_VALUE", "layers[0].mlp_ratio"),
    (TransformerSpec, transformer(layers=[{"heads": 1}]), "MISSING_FIELD", "layers[0].mlp_ratio"),
    (TransformerSpec, transformer(width=4096, layers=[LAYER] * 48), "BAD_VALUE", "layers"),
]


@pytest.mark.parametrize(("spec", "data", "reason", "field"), CASES)
def test_a_bad_spec_is_refused_with_its_path(spec: Any, data: Any, reason: str, field: str) -> None:
    for root in ("", "spec.model.params"):
        with pytest.raises(InvalidArgument) as caught:
            spec.from_json(data, root)
        assert (caught.value.reason, caught.value.field) == (reason, f"{root}.{field}".strip("."))


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("searched_cnn", {"num_classes": 3, **stages(width=HUGE)}, "stages[1].width"),
        ("searched_cnn", {"num_classes": 3, **stages(depth=16, width=1024, kernel=7, expansion=8)}, "stages"),
        ("searched_cnn", {"num_classes": HUGE, **conv()}, "num_classes"),
        ("searched_cnn", {"num_classes": 0, **conv()}, "num_classes"),
        ("searched_cnn", {"num_classes": 3, **conv(), "channels": 2}, "channels"),
        ("searched_cnn", {"num_classes": 3, **conv(), "norm": "layer"}, "norm"),
        ("searched_cnn", {"num_classes": 3, **conv(), "dropout": 1.0}, "dropout"),
        ("searched_transformer", {"vocabulary": HUGE, **transformer()}, "vocabulary"),
        ("searched_transformer", {"vocabulary": 0, **transformer()}, "vocabulary"),
        ("searched_transformer", {"vocabulary": 9, **transformer(width=4096, layers=[LAYER] * 48)}, "layers"),
    ],
)
def test_a_run_spec_with_a_bad_network_is_refused_before_anything_is_allocated(
    name: str, params: dict[str, Any], field: str
) -> None:
    MODELS.get(name)
    tracemalloc.start()
    with pytest.raises(InvalidArgument) as caught:
        MODELS.build(name, params, field="spec.model")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.field == f"spec.model.params.{field}"
    assert peak < 1 << 20


def test_the_largest_network_is_near_the_limit() -> None:
    layers = [LAYER] * 3
    spec = TransformerSpec.from_json({"width": 2048, "layers": layers})
    assert MAX_PARAMETERS / 2 < spec.cost(1, 1).parameters <= MAX_PARAMETERS
