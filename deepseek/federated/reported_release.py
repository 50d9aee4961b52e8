"""What a node reports about the DP-SGD of its update, and the comparison with what the coordinator debits for it.

The figures are those with which the node sampled and added noise. The comparison finds versions of the node and the
coordinator that account differently. It does not find a node that lies: such a node could also leave out the noise.
"""

from collections.abc import Mapping

from deepseek.privacy.releases import Release

STEPS, NOISE, RATE = "dp_steps", "dp_noise_multiplier", "dp_sampling_rate"


def figures_of(release: Release) -> dict[str, float]:
    """Returns the figures that a node reports, by name. They do not depend on its data."""
    return {STEPS: float(release.count), NOISE: release.noise_multiplier, RATE: release.sampling_rate}


def excess(figures: Mapping[str, float], debited: Release) -> str:
    """Returns why an update may cost more privacy than is debited for it; empty if it does not.

    >>> excess(figures_of(Release(1.0, 0.1, 10)), Release(1.0, 0.1, 10))
    ''
    >>> excess(figures_of(Release(1.0, 0.1, 11)), Release(1.0, 0.1, 10))
    'the node has made 11 steps of DP-SGD, and 10 are debited'
    """
    if missing := [name for name in (STEPS, NOISE, RATE) if name not in figures]:
        return f"the node does not report {', '.join(missing)} of its DP-SGD"
    if not figures[STEPS] <= debited.count:
        return f"the node has made {figures[STEPS]:.15g} steps of DP-SGD, and {debited.count} are debited"
    if not figures[NOISE] >= debited.noise_multiplier:
        return f"the noise multiplier was {figures[NOISE]!r}, and {debited.noise_multiplier!r} is debited"
    if not figures[RATE] <= debited.sampling_rate:
        return f"the sampling rate was {figures[RATE]!r}, and {debited.sampling_rate!r} is debited"
    return ""
