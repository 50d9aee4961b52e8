"""`python -m tests.common.server.example`."""

import sys

from common.launch import run
from tests.common.server.example.settings import Settings

if __name__ == "__main__":
    sys.exit(run(Settings))
