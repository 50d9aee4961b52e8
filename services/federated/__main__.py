"""Starts the coordinator: `python -m services.federated` listens on 127.0.0.1:7005 by default."""

import sys

from common.launch import run
from services.federated.settings import FederatedSettings

if __name__ == "__main__":
    sys.exit(run(FederatedSettings))
