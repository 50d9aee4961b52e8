"""Valid requests of the registry."""

import grpc

from common.artifacts.proto import to_proto
from common.names import new_id
from common.upkeep.dump import Reference
from deepseek.data.manifest import MEDIA_TYPE as DATASET_MEDIA_TYPE
from deepseek.models.manifest import MEDIA_TYPE, ONNX_MEDIA_TYPE, ModelFile, ModelManifest, TensorSpec
from protos.privacy.v1 import privacy_pb2, privacy_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.harness.examples import Example, Examples, Existing
from tests.services.inference.models import scale_model


def publish(existing: Existing) -> str:
    """Puts a model into the store, as an export does, and registers it; returns the name of the version."""
    mesh, data = existing.mesh, existing["dataset_version"]
    file = mesh.store.put(mesh.tenant, scale_model(2), ONNX_MEDIA_TYPE)
    manifest = ModelManifest(
        model="test",
        run="runs/test",
        dataset_version=data,
        files=(ModelFile("model.onnx", "fp32", file.sha256, file.size_bytes),),
        served="model.onnx",
        inputs=(TensorSpec("x", "FP32", (-1, 3)),),
        outputs=(TensorSpec("y", "FP32", (-1, 3)),),
    )
    stored = to_proto(mesh.store.put(mesh.tenant, manifest.to_bytes(), MEDIA_TYPE))
    request = registry_pb2.CreateModelVersionRequest(parent="models/m", manifest=stored, sources=[data])
    return str(_stub(existing).CreateModelVersion(request).model_version.name)


def set_alias(existing: Existing) -> str:
    """Sets the alias `prod` of the model."""
    request = registry_pb2.SetAliasRequest(name=f"{existing['model']}/aliases/prod", version=existing["model_version"])
    return str(_stub(existing).SetAlias(request).alias.name)


def _other_alias(existing: Existing) -> str:
    """Sets an alias that nothing else needs."""
    name = f"{existing['model']}/aliases/{new_id()}"
    request = registry_pb2.SetAliasRequest(name=name, version=existing["model_version"])
    return str(_stub(existing).SetAlias(request).alias.name)


def create_budget(existing: Existing) -> str:
    """Creates a budget that many requests can debit."""
    request = privacy_pb2.CreateBudgetRequest(
        budget_id="patients", dataset="federations/clinics", unit="UNIT_CLIENT", epsilon=500, delta=1e-6
    )
    return str(_privacy(existing).CreateBudget(request).budget.name)


def debit(existing: Existing) -> str:
    """Debits the budget."""
    release = privacy_pb2.Release(noise_multiplier=2, sampling_rate=0.1, count=1)
    request = privacy_pb2.DebitRequest(budget=existing["budget"], release=release, run="runs/r")
    return str(_privacy(existing).Debit(request).debit.name)


def requests(existing: Existing) -> dict[str, Example]:
    """An example for each method."""
    model, model_version, alias = existing["model"], existing["model_version"], existing["alias"]
    dataset, data = existing["dataset"], existing["dataset_version"]
    watermark, sha256 = existing["watermark"], existing["watermark_sha256"]
    budget, release = existing["budget"], {"noise_multiplier": 4, "sampling_rate": 0.01, "count": 2}
    manifest = {
        "uri": existing["manifest_uri"],
        "sha256": existing["manifest_sha256"],
        "size_bytes": existing["manifest_size_bytes"],
        "media_type": MEDIA_TYPE,
    }
    return {
        "DeleteDatasetVersion": {"name": data},
        "DeleteDataset": {"name": dataset},
        "DeleteModelVersion": {"name": model_version},
        "DeleteModel": {"name": model},
        "DeleteAlias": lambda num_requests: [{"name": _other_alias(existing)} for _ in range(num_requests)],
        "CreateDataset": {"dataset_id": "e", "description": "some"},
        "GetDataset": {"name": dataset},
        "ListDatasets": {"page_size": 1},
        "CreateDatasetVersion": {
            "parent": "datasets/e",
            "manifest": manifest | {"media_type": DATASET_MEDIA_TYPE},
            "num_samples": 1,
        },
        "GetDatasetVersion": {"name": data},
        "ListDatasetVersions": {"parent": dataset, "page_size": 1},
        "CreateModel": {"model_id": "n", "description": "some"},
        "GetModel": {"name": model},
        "ListModels": {"page_size": 1},
        "CreateModelVersion": {
            "parent": model,
            "manifest": manifest,
            "sources": [data, existing["run"], "runs/r"],
            "metrics": [{"name": "test/accuracy", "value": 0.5}],
            "privacy": {
                "epsilon": 500,
                "delta": 1e-6,
                "unit": "UNIT_CLIENT",
                "adjacency": "ADJACENCY_ADD_REMOVE",
                "sampling": "SAMPLING_POISSON",
                "debit": existing["debit"],
            },
        },
        "GetModelVersion": {"name": alias},
        "ListModelVersions": {"parent": model, "page_size": 1},
        "SetAlias": {"name": alias, "version": model_version, "expected_version": model_version},
        "GetAlias": {"name": alias},
        "ListAliases": {"parent": model, "page_size": 1},
        "ListAliasHistory": {"name": alias, "page_size": 1},
        "GetLineage": {"name": model_version, "depth": 2},
        "CreateWatermark": {"modality": "MODALITY_TEXT", "model_version": model_version, "key_epoch": 1},
        "SetWatermarkContent": {
            "name": watermark,
            "content_sha256": sha256,
            "content_size_bytes": existing["watermark_size_bytes"],
        },
        "GetWatermark": {"name": watermark},
        "ListWatermarks": {"page_size": 1, "model_version": model_version, "content_sha256": sha256},
        "CreateBudget": {
            "budget_id": "examples",
            "dataset": "datasets/patients",  # runs without privacy train on the other one
            "unit": "UNIT_EXAMPLE",
            "epsilon": 1,
            "delta": 1e-5,
        },
        "GetBudget": {"name": budget},
        "ListBudgets": {"page_size": 1, "datasets": ["federations/clinics"]},
        "PreviewDebit": {"budget": budget, "release": release},
        "Debit": {"budget": budget, "release": release, "run": existing["run"], "round": 1, "sealed_sha256": sha256},
        "ListDebits": {"parent": budget, "page_size": 1},
        "VerifyBudget": {"name": budget},
    }


def _privacy(existing: Existing) -> privacy_pb2_grpc.PrivacyServiceStub:
    return privacy_pb2_grpc.PrivacyServiceStub(existing.mesh.channel("registry"))


def _stub(existing: Existing) -> registry_pb2_grpc.RegistryServiceStub:
    return registry_pb2_grpc.RegistryServiceStub(existing.mesh.channel("registry"))


def _version(existing: Existing) -> registry_pb2.ModelVersion:
    request = registry_pb2.GetModelVersionRequest(name=existing["model_version"])
    version: registry_pb2.ModelVersion = _stub(existing).GetModelVersion(request).model_version
    return version


OF_THE_CALLER = "makes something of the caller's own"
EXAMPLES = Examples(
    requests=requests,
    makers={
        "dataset": lambda existing: existing["dataset_version"].partition("/versions/")[0],
        "model_version": publish,
        "model": lambda existing: existing["model_version"].partition("/versions/")[0],
        "alias": set_alias,
        "budget": create_budget,
        "debit": debit,
        "manifest_uri": lambda existing: _version(existing).manifest.uri,
        "manifest_sha256": lambda existing: _version(existing).manifest.sha256,
        "manifest_size_bytes": lambda existing: str(_version(existing).manifest.size_bytes),
    },
    refused=dict.fromkeys(
        ("DeleteDatasetVersion", "DeleteDataset", "DeleteModelVersion", "DeleteModel"), "VERSION_IN_USE"
    ),
    lists=frozenset({"ListDatasets", "ListModels", "ListWatermarks", "ListBudgets"}),
    names_nothing={
        "CreateDataset": OF_THE_CALLER,
        "CreateDatasetVersion": OF_THE_CALLER,
        "CreateModel": OF_THE_CALLER,
        "CreateBudget": OF_THE_CALLER,
    },
    unknown={"CreateModelVersion": grpc.StatusCode.INVALID_ARGUMENT},
    words=("latest", "prod"),
    references=frozenset(
        {
            Reference("default", "aaaa", MEDIA_TYPE),
            Reference("default", "bbbb", MEDIA_TYPE),
            Reference("other", "cccc", DATASET_MEDIA_TYPE),
        }
    ),
)
