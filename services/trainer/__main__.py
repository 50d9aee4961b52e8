"""Starts the trainer: `python -m services.trainer` listens on 127.0.0.1:7003 by default."""

import sys

from common.launch import run
from services.trainer.settings import TrainerSettings

if __name__ == "__main__":
    sys.exit(run(TrainerSettings))
