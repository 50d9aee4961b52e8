"""Starts the tuner: `python -m services.tuner` listens on 127.0.0.1:7004 by default."""

import sys

from common.launch import run
from services.tuner.settings import TunerSettings

if __name__ == "__main__":
    sys.exit(run(TunerSettings))
