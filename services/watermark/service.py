"""Assembles the watermark service from its components."""

from common.server import GrpcService
from common.server.process import ServiceProcess
from protos.watermark.v1 import watermark_pb2_grpc
from services.watermark.clients.registry import RegistryClient
from services.watermark.disclosure import DetectionQuota
from services.watermark.images import ImageWatermarks, Limits
from services.watermark.keys import KeyStore, has_keys
from services.watermark.master_key import FILE_NAME, make_master_key, read_master_key
from services.watermark.references import references
from services.watermark.servicer import WatermarkServicer
from services.watermark.settings import WatermarkSettings
from services.watermark.slots import WorkSlots
from services.watermark.texts import TextWatermarks

__all__ = ["build", "references"]

_RESPONSE_BYTES = 1 << 16  # reserved in a response for everything except the image


def build(process: ServiceProcess[WatermarkSettings]) -> GrpcService:
    """Creates the gRPC service.

    The service is ready even while the registry is down, because most detections do not call the registry.
    """
    settings, database = process.settings, process.database
    master_key_file = settings.master_key_file or settings.home / FILE_NAME
    if not settings.master_key_file and not has_keys(database):
        make_master_key(master_key_file)
    keys = KeyStore(database, read_master_key(master_key_file))
    keys.check_master()
    registry = RegistryClient(process.channel("registry"))
    slots = WorkSlots(settings.max_at_once, settings.max_waiting)
    limits = Limits(settings.max_image_bytes, settings.max_message_bytes - _RESPONSE_BYTES)
    images = ImageWatermarks(keys, registry, slots, limits)
    texts = TextWatermarks(keys, registry, slots, max_tokens=settings.max_stream_tokens)
    servicer = WatermarkServicer(images, texts, keys, DetectionQuota(settings.max_detections_per_minute))
    return process.grpc_service(watermark_pb2_grpc.add_WatermarkServiceServicer_to_server, servicer)
