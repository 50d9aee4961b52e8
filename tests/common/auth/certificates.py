"""Certificates that have expired or are not yet valid."""

import datetime
from pathlib import Path

import pytest

from common.auth import certificates


def renew_as_old(folder: Path, name: str, *, days_left: float) -> None:
    """Renews a certificate so that it expires in so many days, or has expired if they are negative."""
    _renew(folder, name, begun=datetime.timedelta(days=365), days_left=days_left)


def renew_as_of_tomorrow(folder: Path, name: str) -> None:
    """Renews a certificate as on a machine whose clock is a day ahead."""
    _renew(folder, name, begun=datetime.timedelta(days=-1), days_left=366)


def _renew(folder: Path, name: str, *, begun: datetime.timedelta, days_left: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "LEAF_DAYS", days_left)
        patch.setattr(certificates, "_CLOCK_SKEW", begun)
        certificates.renew(folder, names=[name])
