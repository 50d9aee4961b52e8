"""Starts the ingest service: `python -m services.ingest` listens on 127.0.0.1:7002 by default."""

import sys

from common.launch import run
from services.ingest.settings import IngestSettings

if __name__ == "__main__":
    sys.exit(run(IngestSettings))
