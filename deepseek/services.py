"""The declarations of the mesh's services, as data only. Lists of services are derived from `SERVICES`."""

from common.auth.caller import Role
from common.service import Service, Uses, catalogue

REGISTRY = Service(
    name="registry",
    contract="deepseek.registry.v1.RegistryService",
    port=7001,
    metrics_port=9001,
    grants={
        "ingest": Role.WRITER,
        "trainer": Role.WRITER,
        "watermark": Role.WRITER,
        "federated": Role.WRITER,
        "inference": Role.READER,
    },
    parents=("dataset_id", "model_id", "budget_id", "budget"),
    further_contracts=("deepseek.privacy.v1.PrivacyService",),
)
INGEST = Service(
    name="ingest",
    contract="deepseek.ingest.v1.IngestService",
    port=7002,
    metrics_port=9002,
    calls={"registry": Role.WRITER},
    uses=frozenset({Uses.STORE, Uses.JOBS, Uses.ARTIFACTS}),
    resources=("upload",),
    parents=("dataset",),
)
TRAINER = Service(
    name="trainer",
    contract="deepseek.trainer.v1.TrainerService",
    port=7003,
    metrics_port=9003,
    calls={"registry": Role.WRITER},
    grants={"tuner": Role.WRITER},
    uses=frozenset({Uses.STORE, Uses.JOBS}),
    resources=("run",),
    scratch_mib=256,
)
TUNER = Service(
    name="tuner",
    contract="deepseek.tuner.v1.TunerService",
    port=7004,
    metrics_port=9004,
    calls={"trainer": Role.WRITER},
    uses=frozenset({Uses.JOBS}),
    parents=("study_id",),
)
FEDERATED = Service(
    name="federated",
    contract="deepseek.federated.v1.FederatedService",
    port=7005,
    metrics_port=9005,
    calls={"registry": Role.WRITER},
    uses=frozenset({Uses.STORE, Uses.JOBS}),
    parents=("federation_id",),
    scratch_mib=256,
    entries={"node": 7015},
)
WATERMARK = Service(
    name="watermark",
    contract="deepseek.watermark.v1.WatermarkService",
    port=7006,
    metrics_port=9006,
    calls={"registry": Role.WRITER},
    resources=("watermark",),
    secrets={"master_key_file": "master"},
)
INFERENCE = Service(
    name="inference",
    contract="inference.GRPCInferenceService",
    port=8001,
    metrics_port=8002,
    calls={"registry": Role.READER},
    uses=frozenset({Uses.STORE}),
    # Models that are already loaded do not need the store; it is needed only to load another model.
    ready_without_store=True,
    resources=("model_name",),
)

DECLARATIONS = (REGISTRY, INGEST, TRAINER, TUNER, FEDERATED, WATERMARK, INFERENCE)
SERVICES = catalogue(*DECLARATIONS)
"""Every service of the mesh by name, in the order in which they start."""
