"""Starts the watermark service: `python -m services.watermark` listens on 127.0.0.1:7006 by default."""

import sys

from common.launch import run
from services.watermark.settings import WatermarkSettings

if __name__ == "__main__":
    sys.exit(run(WatermarkSettings))
