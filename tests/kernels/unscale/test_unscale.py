import importlib.util
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.unscale import reference
from kernels.unscale import unscale as picked

Unscale = Callable[..., tuple[Tensor, Tensor]]
NOT_FINITE = [math.inf, -math.inf, math.nan]


@pytest.fixture(scope="module", params=["reference", "triton"])
def unscale(request: pytest.FixtureRequest) -> Iterator[Unscale]:
    if request.param == "reference":
        yield reference.unscale
        return
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is an optional extra; without it there is only the reference")
    with pytest.MonkeyPatch.context() as patch:
        # Triton reads this when the kernel's module is imported.
        patch.setenv("TRITON_INTERPRET", "1")
        module = importlib.import_module("kernels.unscale.triton")
        patch.setattr(module, "BLOCK_SIZE", 64)  # several blocks per tensor, without a long test
        # The interpreter computes with NumPy, which warns where a GPU does not.
        yield np.errstate(all="ignore")(module.unscale)
    del sys.modules["kernels.unscale.triton"]


def gradients() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(5, 7), (131,), (1,), (), (3, 0), (2, 3, 4, 5)]
    tensors = [torch.randn(shape, generator=generator) * 1000 for shape in shapes]
    tensors[-1] = tensors[-1].contiguous(memory_format=torch.channels_last)
    return [*tensors, torch.randn(6, 8, generator=generator)[:, ::2], torch.zeros(9)]


def test_it_multiplies_in_place_and_returns_the_norm_of_all(unscale: Unscale) -> None:
    given = gradients()
    expected = [gradient * 0.3 for gradient in given]
    found_inf, norm = unscale(given, 0.3)
    assert found_inf.item() == 0
    assert all(map(torch.equal, given, expected))
    exact = math.sqrt(sum(gradient.double().square().sum().item() for gradient in expected))
    assert norm.item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("position", [0, 1, 3, 6])
def test_one_element_that_is_not_finite_is_found(unscale: Unscale, position: int, value: float) -> None:
    given = gradients()
    given[position][(-1,) * given[position].ndim] = value
    found_inf, _ = unscale(given, 2.0**-16)
    assert found_inf.item() == 1


def test_a_factor_of_zero_or_one_hides_nothing(unscale: Unscale) -> None:
    for factor in (0.0, 1.0):
        found_inf, _ = unscale([torch.tensor([1.0, math.inf])], factor)
        assert found_inf.item() == 1


def test_large_finite_gradients_are_finite(unscale: Unscale) -> None:
    found_inf, _ = unscale([torch.full((10,), 3e38)], 1.0)
    assert found_inf.item() == 0


def test_the_factor_may_be_a_tensor(unscale: Unscale) -> None:
    given = [torch.tensor([6.0, 8.0])]
    _, norm = unscale(given, torch.tensor(0.5))
    assert norm.item() == 5.0
    assert given[0].tolist() == [3.0, 4.0]


def test_no_gradients_have_norm_zero(unscale: Unscale) -> None:
    for nothing in ([], [torch.empty(0)]):
        found_inf, norm = unscale(nothing, 1.0)
        assert (found_inf.item(), norm.item()) == (0, 0)


def test_gradients_and_found_inf_are_bit_for_bit_those_of_torch(unscale: Unscale) -> None:
    for bad in (None, *NOT_FINITE):
        ours, theirs = gradients(), gradients()
        if bad is not None:
            ours[0][2, 3] = theirs[0][2, 3] = bad
        inverse = 1 / 48.7
        found_inf, _ = unscale(ours, inverse)
        expected = torch.zeros(())
        torch._amp_foreach_non_finite_check_and_unscale_(theirs, expected, torch.tensor(inverse))
        assert found_inf.item() == expected.item()
        pairs = zip(ours, theirs, strict=True)
        assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in pairs)


def test_the_norm_is_bit_for_bit_the_one_that_torch_clips_by() -> None:
    given = gradients()
    _, norm = reference.unscale(given, 0.7)
    assert torch.equal(norm, torch.nn.utils.get_total_norm(given))


def test_on_a_cpu_the_reference_is_selected() -> None:
    ours, theirs = gradients(), gradients()
    assert [value.item() for value in picked(ours, 0.1)] == [value.item() for value in reference.unscale(theirs, 0.1)]


def test_gradients_of_several_types_have_one_norm() -> None:
    given = [torch.tensor([3.0]), torch.tensor([4j]), torch.tensor([12.0], dtype=torch.float64)]
    found_inf, norm = picked(given, 0.5)
    assert (found_inf.item(), norm.item()) == (0.0, 6.5)
    assert [gradient.item() for gradient in given] == [1.5, 2j, 6.0]
    given[1][0] = complex(0.0, math.nan)
    assert picked(given, 1.0)[0].item() == 1.0
