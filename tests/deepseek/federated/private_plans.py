"""Parts of plans whose nodes protect their examples."""

from typing import Any

from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.run_plan import RunPrivacy
from deepseek.privacy.releases import Release
from deepseek.training.dp_settings import DpSgd
from tests.deepseek.federated.simulation import BUDGET

EXAMPLES = FitSettings(dp_sgd=DpSgd(1.0, 1.0, 16, 0.01))
OF_EXAMPLES: dict[str, Any] = {
    "privacy": RunPrivacy("example", BUDGET, Release(1.0, 0.01, 100)),
    "task": {"fit": EXAMPLES.to_json()},
}
