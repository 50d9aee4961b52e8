"""Starts the registry: `python -m services.registry` listens on 127.0.0.1:7001 by default."""

import sys

from common.launch import run
from services.registry.settings import RegistrySettings

if __name__ == "__main__":
    sys.exit(run(RegistrySettings))
