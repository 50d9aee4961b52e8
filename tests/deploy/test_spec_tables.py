"""The tables of the fields of a run spec in docs/spec.md."""

import json
import re
import tomllib

import pytest

from deepseek.trainjob.runspec import RunSpec
from deploy.spec_tables import PAGE, render

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_page_shows_the_contract_and_the_defaults() -> None:
    assert render(TEXT) == TEXT, "run make spec"


def test_a_table_states_type_default_and_meaning() -> None:
    table = render("before\n<!-- fields:RunSpec -->\nanything\n<!-- /fields -->\nafter")
    assert table.startswith("before\n<!-- fields:RunSpec -->\n| field | type | default | meaning |\n")
    assert "| `train_split` | text | `train` | Training split. |" in table
    assert "| `inputs` | list of [FieldMapping](#fieldmapping) | required |" in table
    assert "| `checkpoint_interval_s` | number | `10` | Minimum time between checkpoints in seconds" in table
    assert table.endswith("|\n<!-- /fields -->\nafter")


def test_a_table_marks_what_a_spec_must_contain() -> None:
    required = re.findall(r"^\| `(\w+)` \| [^|]+ \| required \|", TEXT, flags=re.MULTILINE)
    assert required == [
        *("dataset_version", "model", "inputs", "target", "epochs", "batch_size"),
        *("name", "field", "patience"),
        *("clip_norm", "example_rate", "budget"),
    ]


def test_a_table_names_the_alternatives_of_a_required_choice() -> None:
    assert "| `noise_multiplier` | number | required, or `target_epsilon` |" in TEXT
    assert "| `target_epsilon` | number | required, or `noise_multiplier` |" in TEXT


def test_every_field_has_a_meaning() -> None:
    assert not re.search(r"\| +\|$", TEXT, flags=re.MULTILINE)


def test_the_json_and_the_toml_form_are_the_same_run() -> None:
    [[from_json], [from_toml]] = (re.findall(rf"```{form}\n(.*?)```", TEXT, re.DOTALL) for form in ("json", "toml"))
    assert RunSpec.from_json(json.loads(from_json)) == RunSpec.from_json(tomllib.loads(from_toml))
    RunSpec.from_json(json.loads(from_json)).check()


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown table 'Run'; known: encoders, RunSpec, "):
        render("<!-- fields:Run -->\n<!-- /fields -->")
