import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import FailedPrecondition
from deepseek.models.manifest import WEIGHTS_FILE, ModelFile, ModelManifest, TensorSpec
from deepseek.training import checkpoint
from deepseek.trainjob.jobfile import JobFile
from deepseek.trainjob.pipeline import build_model, fit_mappings, load_initial_weights
from tests.deepseek.trainjob.jobs import write_job
from tests.deepseek.trainjob.small_tasks import TASKS


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


def test_columns_in_another_order_cannot_start_from_a_version(tmp_path: Path) -> None:
    task = TASKS["tabular"]
    job = JobFile.open(write_job(tmp_path, spec=task.spec, fields=task.fields, make=task.make))
    model = build_model(job.spec, fit_mappings(job))
    weights = job.store.put("default", checkpoint.dumps(checkpoint.model_state(model)), checkpoint.MEDIA_TYPE)
    file = ModelFile(WEIGHTS_FILE, "weights", weights.sha256, weights.size_bytes, weights.media_type)
    inputs = tuple(TensorSpec(one.input, "FP32", (-1,)) for one in job.spec.inputs)
    init = ModelManifest("tabular", "runs/r", "datasets/d/versions/1", (file,), "", inputs, ())
    load_initial_weights(replace(job, init=init), model)

    size, count, colour = job.spec.inputs
    for others in ((count, size, colour), (replace(size, input="length"), count, colour)):
        spec = replace(job.spec, inputs=others)
        with pytest.raises(FailedPrecondition, match="trained with size, count, colour") as caught:
            load_initial_weights(replace(job, spec=spec, init=init), build_model(spec, fit_mappings(job)))
        assert (caught.value.reason, caught.value.field) == ("INIT_MISMATCH", "spec.init")
