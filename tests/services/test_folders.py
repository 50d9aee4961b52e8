"""The folder of each service's tests holds what tests of all services look for there."""

from pathlib import Path

import pytest
from google.protobuf import json_format

from deepseek.services import SERVICES
from tests.faults.workload import Workload
from tests.harness.contracts import all_methods, own_methods
from tests.harness.examples import SHARED, Existing, examples_of, part_of


class NamesOnly(Existing):
    """Has a name for everything, and no mesh."""

    def __init__(self) -> None:
        """Nothing is made."""

    def __getitem__(self, what: str) -> str:
        return "7" if what.endswith(("_bytes", "_epoch")) else f"{what}/1"


@pytest.mark.parametrize("service", SERVICES)
def test_every_method_of_a_service_has_a_valid_example(service: str) -> None:
    examples = examples_of(service).requests(NamesOnly())
    methods = {method.name: method for method in own_methods(service)}
    assert set(examples) == set(methods)
    for name, example in examples.items():
        if not callable(example):
            json_format.ParseDict(dict(example), methods[name].request())


@pytest.mark.parametrize("service", SERVICES)
def test_examples_speak_of_methods_of_their_service(service: str) -> None:
    examples = examples_of(service)
    named = {*examples.refused, *examples.lists, *examples.names_nothing, *examples.unknown}
    assert named <= {method.name for method in own_methods(service)}


def test_shared_examples_speak_of_methods_that_there_are() -> None:
    assert {*SHARED.refused, *SHARED.lists, *SHARED.names_nothing} <= {method.name for method in all_methods()}


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_a_workload_and_first_rows(service: str) -> None:
    assert issubclass(part_of(service, "workload").WORKLOAD, Workload)
    assert (Path(__file__).parent / service / "first_rows.sql").exists()


@pytest.mark.parametrize("module", ["examples", "workload"])
def test_what_a_service_lacks_is_named_in_one_line(module: str) -> None:
    with pytest.raises(AssertionError, match=f"^service clock has no tests/services/clock/{module}.py$"):
        part_of("clock", module)
