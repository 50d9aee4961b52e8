"""The declarations of the mesh's services, as data only. Lists of services are derived from `SERVICES`."""

from common.auth.caller import Role
from common.service import Service, Uses, catalogue

REGISTRY = Service(
    name="registry",
    contract="deepseek.registry.v1.RegistryService",
    port=7001,
    metrics_port=9001,
    grants={"ingest": Role.WRITER, "trainer": Role.WRITER, "watermark": Role.WRITER, "inference": Role.READER},
    parents=("dataset_id", "model_id"),
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
    uses=frozenset({Uses.STORE, Uses.JOBS}),
    resources=("run",),
    scratch_mib=256,
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

DECLARATIONS = (REGISTRY, INGEST, TRAINER, WATERMARK, INFERENCE)
SERVICES = catalogue(*DECLARATIONS)
"""Every service of the mesh by name, in the order in which they start."""
