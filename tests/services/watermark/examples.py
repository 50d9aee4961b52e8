"""Valid requests of the watermark service."""

import base64

from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from tests.harness.examples import Example, Examples, Existing, Fields
from tests.harness.images import PNG


def mark(existing: Existing) -> str:
    """Marks an image; returns the name of the watermark."""
    request = pb.MarkImageRequest(image=PNG, model_version=existing["model_version"])
    return str(WatermarkServiceStub(existing.mesh.channel("watermark")).MarkImage(request).watermark)


def registered(existing: Existing) -> registry_pb2.Watermark:
    """The watermark as the registry has it."""
    stub = registry_pb2_grpc.RegistryServiceStub(existing.mesh.channel("registry"))
    found: registry_pb2.Watermark = stub.GetWatermark(
        registry_pb2.GetWatermarkRequest(name=existing["watermark"])
    ).watermark
    return found


def new_epoch(existing: Existing) -> str:
    """Makes a new key for texts; returns its epoch."""
    stub = WatermarkServiceStub(existing.mesh.channel("watermark"))
    return str(stub.RotateKey(pb.RotateKeyRequest(modality=pb.MODALITY_TEXT)).key.epoch)


def requests(existing: Existing) -> dict[str, Example]:
    """An example for each method."""
    model_version = existing["model_version"]
    image = {"image": base64.b64encode(PNG).decode()}
    text = {"tokens": [7, 1, 4, 1, 4, 2, 1, 3, 5, 6], "scheme": "TEXT_SCHEME_KGW"}

    def tokens(num_requests: int) -> list[Fields]:
        config = {"scheme": "TEXT_SCHEME_SYNTHID", "model_version": model_version}
        return [{"config": config}, *[{"logits": {"values": [0, 1, 2], "tokens": [3, 5, 7]}}] * (num_requests - 1)]

    return {
        "MarkImage": image | {"model_version": model_version, "min_psnr_db": 40, "encoding_quality": 90},
        "MarkImages": {"request": image},
        "DetectImage": image | {"aligned_only": True, "locate": True},
        "DetectImages": {"request": image | {"aligned_only": True}},
        "MarkTokens": tokens,
        "DetectText": text | {"model_version": model_version},
        "DetectTexts": {"request": text | {"whole_only": True}},
        "ListKeys": {"modality": "MODALITY_IMAGE", "page_size": 1},
        "RotateKey": {"modality": "MODALITY_TEXT"},
        "RevokeKey": {"modality": "MODALITY_TEXT", "epoch": existing["new_epoch"]},
    }


BY_OWN_KEYS = "detects with the caller's own keys"
EXAMPLES = Examples(
    requests=requests,
    makers={
        "watermark": mark,
        "watermark_sha256": lambda existing: registered(existing).content_sha256,
        "watermark_size_bytes": lambda existing: str(registered(existing).content_size_bytes),
        "new_epoch": new_epoch,
    },
    names_nothing={
        "DetectImage": BY_OWN_KEYS,
        "DetectImages": BY_OWN_KEYS,
        "DetectText": BY_OWN_KEYS,
        "DetectTexts": BY_OWN_KEYS,
        "ListKeys": "lists the caller's own keys, of which the first comes by itself",
        "MarkImages": "reports for each image what MarkImage does",
        "RevokeKey": "counts the caller's own keys",
        "RotateKey": "makes something of the caller's own",
    },
)
