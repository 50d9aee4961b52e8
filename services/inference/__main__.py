"""Starts the inference service: `python -m services.inference` listens on 127.0.0.1:8001 by default."""

import sys

from common.launch import run
from services.inference.settings import InferenceSettings

if __name__ == "__main__":
    sys.exit(run(InferenceSettings))
