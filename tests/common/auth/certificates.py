"""Certificates that are old, which nobody would make on purpose."""

import datetime
from pathlib import Path

import pytest

from common.auth import certificates


def renew_as_old(folder: Path, name: str, *, days_left: float) -> None:
    """Renews a certificate so that it expires in so many days, or has expired if they are negative."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "LEAF_DAYS", days_left)
        patch.setattr(certificates, "_CLOCK_SKEW", datetime.timedelta(days=365))
        certificates.renew(folder, names=[name])
