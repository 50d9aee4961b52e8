"""Serves watermarks: `python -m services.watermark`, by default on 127.0.0.1:7006."""

import sys
from contextlib import ExitStack
from pathlib import Path

from common.channel import open_channel
from common.server import Hosted, MeshServer, make_server, run
from common.telemetry.process import open_state
from common.upkeep import servicer as upkeep
from protos.watermark.v1 import watermark_pb2_grpc
from services.watermark.images import Images, Limits
from services.watermark.keys import Keys, has_keys
from services.watermark.master_key import FILE_NAME, make_master_key, read_master_key
from services.watermark.oracle import Questions
from services.watermark.references import references
from services.watermark.registry import Registry
from services.watermark.servicer import WatermarkServicer
from services.watermark.settings import WatermarkSettings
from services.watermark.texts import Texts
from services.watermark.turns import Turns

SERVICE = "deepseek.watermark.v1.WatermarkService"

_MIGRATIONS = Path(__file__).parent / "migrations"
_ANSWER_BYTES = 1 << 16  # what an answer has besides the image


def build(settings: WatermarkSettings, owned: ExitStack) -> MeshServer:
    """A bound server, not yet started; `owned` closes what it needs after it."""
    database, telemetry = open_state(settings, _MIGRATIONS, owned)
    master_key_file = settings.master_key_file or settings.home / FILE_NAME
    if not settings.master_key_file and not has_keys(database):
        make_master_key(master_key_file)
    keys = Keys(database, read_master_key(master_key_file))
    keys.check_master()
    channel = open_channel(settings.registry, identity=settings.identity, deadline_s=settings.deadline_s)
    owned.callback(channel.close)
    registry = Registry(channel)
    turns = Turns(settings.max_at_once, settings.max_waiting)
    limits = Limits(settings.max_image_bytes, settings.max_message_bytes - _ANSWER_BYTES)
    images = Images(keys, registry, turns, limits)
    texts = Texts(keys, registry, turns, max_tokens=settings.max_stream_tokens)

    def ready() -> bool:
        # The registry is left out: without it marks are still found.
        database.check()
        return True

    servicer = WatermarkServicer(images, texts, keys, Questions(settings.max_detections_per_minute))
    hosted = [
        Hosted(SERVICE, watermark_pb2_grpc.add_WatermarkServiceServicer_to_server, servicer),
        upkeep.hosted(settings, database, _MIGRATIONS, references),
    ]
    return make_server(settings, hosted, ready=ready, telemetry=telemetry)


if __name__ == "__main__":
    sys.exit(run(WatermarkSettings, build))
