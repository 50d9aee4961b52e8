#!/bin/sh
# The PLDAccountant of dp-accounting 0.6.0 doubles epsilon if the privacy loss of one step is below its default grid.
#
# A privacy loss distribution is the accountant's tight method, and "Connect the Dots" (Doroshenko et al. 2022) makes
# its error small even on a coarse grid. But the default grid of 1e-4 is fixed. If one step loses much less, as with a
# small sampling rate, then nearly all of the distribution lies between the grid points -1e-4, 0 and 1e-4. These points
# have a larger variance than the loss itself, and the variance grows with the number of steps. Nothing warns of this.
# The looser RdpAccountant then gives a smaller epsilon.
#
# Setting: 100000 steps of DP-SGD with noise multiplier 5, sampling rate 1e-4 and delta 1e-6.
# Expected: an epsilon near that of a finer grid, and below that of the RdpAccountant. Observed: PLD with the default
# grid 0.0433, with 1e-5 0.0212, with 1e-6 0.0208; RDP 0.0337.
# Exits with 1 if the result changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" \
    dp-accounting==0.6.0 numpy==2.4.6 scipy==1.17.1
PYTHONPATH=$folder python3 -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

step = PoissonSampledDpEvent(1e-4, GaussianDpEvent(5.0))
accountants = {
    "PLD, default grid": PLDAccountant(),
    "PLD, grid 1e-5": PLDAccountant(value_discretization_interval=1e-5),
    "PLD, grid 1e-6": PLDAccountant(value_discretization_interval=1e-6),
    "RDP": RdpAccountant(),
}
epsilon = {name: float(one.compose(step, 100_000).get_epsilon(1e-6)) for name, one in accountants.items()}
print("dp-accounting", version("dp-accounting"), "epsilon:", {name: round(one, 4) for name, one in epsilon.items()})
default, finer, finest, rdp = epsilon.values()
sys.exit(not (default > 1.9 * finest and finer < 1.05 * finest and default > 1.2 * rdp))
PYTHON
