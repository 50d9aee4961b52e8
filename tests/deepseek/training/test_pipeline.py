import json
from pathlib import Path

import pytest

from deepseek.training.jobfile import JobFile
from deepseek.training.pipeline import fit_mappings
from tests.deepseek.training.jobs import write_job


@pytest.mark.parametrize(("stored", "version"), [(2, 2), (1, 1), (None, 1)])
def test_a_run_keeps_the_version_of_its_encoders(tmp_path: Path, stored: int | None, version: int) -> None:
    path = write_job(tmp_path)
    document = json.loads(path.read_text())
    for mapping in (*document["spec"]["inputs"], document["spec"]["target"]):
        params = mapping["encoder"]["params"]
        assert params.pop("version") == 2
        if stored:
            params["version"] = stored
    path.write_text(json.dumps(document))
    mappings = fit_mappings(JobFile.open(path))
    assert [mapping.encoder.params["version"] for mapping in (*mappings.inputs, mappings.target)] == [version] * 2
