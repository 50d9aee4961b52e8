"""Probes are read as they were written, hostile ones are refused, and disagreement is computed as documented."""

import io
import zipfile

import numpy as np
import pytest

from common.errors import InvalidArgument
from deepseek.models.probes import MAX_BYTES, MAX_PROBES, Array, Probes, disagreement

PROBES = Probes(
    {"image": np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4), "text": np.array([[[1, 2]], [[3, 4]]])},
    {"output": np.array([[[0.1, 0.9]], [[0.8, 0.2]]], np.float32)},
)


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name.replace("__", "/"): array for name, array in arrays.items()})  # type: ignore[arg-type]
    return file.getvalue()


def zipped(content: bytes, *, name: str = "inputs/x.npy", compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    padded = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data


def test_probes_are_read_as_they_were_written() -> None:
    again = Probes.from_bytes(PROBES.to_bytes())
    assert again.to_bytes() == PROBES.to_bytes()
    first, second = again.requests()
    np.testing.assert_array_equal(first["image"], PROBES.inputs["image"][0])
    np.testing.assert_array_equal(second["text"], [[3, 4]])
    assert len(again) == 2


ONE = np.ones((2, 3), np.float32)
HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 1024), }"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "not an .npz archive"),
        (b"no archive", "not an .npz archive"),
        (PROBES.to_bytes()[:-100], "not an .npz archive"),
        (npz(), "0 inputs"),
        (npz(inputs__x=ONE), "0 outputs"),
        (npz(outputs__y=ONE), "0 inputs"),
        (npz(inputs__x=ONE, outputs__y=ONE[:1]), "differ in the number of probes"),
        (npz(inputs__x=ONE[:0], outputs__y=ONE[:0]), "have none"),
        (npz(inputs__x=np.float32(1), outputs__y=ONE), "have none"),
        (npz(inputs__x=np.array([object()] * 2), outputs__y=ONE), "'inputs/x.npy' is not a plain array"),
        (npz(inputs__x=np.array(["a", "b"]), outputs__y=ONE), "'inputs/x.npy' is not a plain array"),
        (npz(inputs__x=ONE.astype(">f4"), outputs__y=ONE), "'inputs/x.npy' is not a plain array"),
        (npz(inputs__x=ONE.astype(np.longdouble), outputs__y=ONE), "'inputs/x.npy' is not a plain array"),
        (npz(else__x=ONE, outputs__y=ONE), "the unknown or repeated file 'else/x.npy'"),
        (zipped(npy(HUGE)), "'inputs/x.npy' is not a plain array"),
        (zipped(npy("{'descr'")), "not an .npz archive"),
        (zipped(b"\x93NUMPY\x09\x00"), "unknown version"),
        (zipped(bytes(1 << 20), compression=zipfile.ZIP_DEFLATED), "overlap or exceed the limit of"),
        (zipped(npy(HUGE), compression=zipfile.ZIP_BZIP2), "is compressed"),
        (bytes(MAX_BYTES + 1), "at most"),
        (npz(inputs__x=np.zeros(MAX_PROBES + 1), outputs__y=np.zeros(MAX_PROBES + 1)), "at most 1024"),
    ],
)
def test_hostile_probes_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as caught:
        Probes.from_bytes(data)
    assert (caught.value.reason, caught.value.field) == ("BAD_PROBES", "probes")


@pytest.mark.parametrize(
    ("expected", "found", "classes", "differing"),
    [
        ([[1, 0], [0, 1]], [[0.6, 0.4], [0.4, 0.6]], True, 0.0),
        ([[1, 0], [0, 1]], [[0.4, 0.6], [0.4, 0.6]], True, 0.5),
        # Two classes with the same score may swap ranks.
        ([[1, 0], [1, 1 + 1e-5]], [[1, 0], [1 + 1e-5, 1]], True, 0.0),
        ([0, 2], [1, 3], False, 1.0),
        ([0, 2], [0, 2], False, 0.0),
        ([3, 3], [3, 3], False, 0.0),
        ([2, 2], [3, 3], False, 0.5),
        ([0, 0], [0.5, 0.5], False, 0.5),
        ([0, np.inf], [0, np.inf], False, 0.0),
        ([0, 1], [0, np.nan], False, 1.0),
        ([0, 1], [0, 1, 2], False, 1.0),
        ([[]], [[]], False, 0.0),
    ],
)
def test_disagreement_is_that_of_classes_or_relative_to_the_spread(
    expected: list[float], found: list[float], classes: bool, differing: float
) -> None:
    right, given = np.array(expected, np.float32), np.array(found, np.float32)
    assert disagreement(right, given, classes=classes) == pytest.approx(differing)


def test_answers_that_are_not_floats_differ_by_elements() -> None:
    assert disagreement(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25


def test_the_worst_output_of_all_requests_counts() -> None:
    outputs: dict[str, Array] = {"class": np.eye(2)[:, None], "value": np.array([[0.0], [2.0]])}
    probes = Probes({"x": np.array([[0], [1]])}, outputs)

    def run(request: dict[str, Array]) -> list[Array]:
        (index,) = request["x"]
        return [np.eye(2)[:1], np.array([2.0 * index])]

    assert probes.disagreement(run, {"class"}) == 0.5
    assert probes.disagreement(lambda _: [np.zeros((2, 2)), np.zeros(1)], {"class"}) == 1.0


@pytest.mark.parametrize(("num_probes", "tolerance"), [(256, 0.005 + 1 / 256), (4, 0.005 + 0.02)])
def test_one_probe_more_or_less_is_tolerated_unless_they_are_few(num_probes: int, tolerance: float) -> None:
    assert Probes({"x": np.zeros((num_probes, 1))}, {}).tolerance(0.005) == tolerance
