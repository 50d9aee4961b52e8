"""Settings of the inference service beyond those implied by the service's declaration in `deepseek/services.py`."""

from typing import Literal

from pydantic import Field

from common.config import ServiceSettings, settings_for
from deepseek.services import SERVICES


@settings_for(SERVICES, "inference")
class InferenceSettings(ServiceSettings):
    """Serves models over the Open Inference Protocol."""

    device: Literal["cpu", "cuda"] = Field("cpu", description="Device on which models run")
    intra_op_threads: int = Field(
        1, description="Number of threads per operator and request; 1 suits small models", gt=0
    )
