"""How much is tried: the same few cases every time, or ever new ones and many.

`DEEPSEEK_FUZZ_EXAMPLES=2000` asks for that many new cases a test; what fails then is printed with how to repeat it.
"""

import os

from hypothesis import HealthCheck, Phase, settings

_ASKED = int(os.environ.get("DEEPSEEK_FUZZ_EXAMPLES", "0"))


def fuzz(num_examples: int) -> settings:
    """Settings of a test that tries so many cases by default."""
    return settings(
        max_examples=_ASKED or num_examples,
        derandomize=not _ASKED,
        database=None,
        deadline=None,
        print_blob=bool(_ASKED),
        # Explaining a failure runs the case many times over.
        phases=(Phase.generate, Phase.shrink),
        # Servers are shared by all cases on purpose, and large inputs are slow to make.
        suppress_health_check=list(HealthCheck),
    )
