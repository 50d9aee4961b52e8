"""`deepseek watermark`: marks in images and text, and the keys that they are made with."""

import io
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InvalidArgument, NotFound
from deepseek.cli.output import AsJson, console, error_console, make_folder, print_json, print_table, writing
from deepseek.client import connect

if TYPE_CHECKING:
    from PIL import Image

    from deepseek.client.mesh import Mesh
    from protos.watermark.v1 import watermark_pb2

app = typer.Typer(
    help="Mark images and text invisibly, and find the marks again. A mark carries an id that the registry knows.",
    no_args_is_help=True,
)

File = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


class Modality(StrEnum):
    """A kind of content."""

    TEXT = "text"
    IMAGE = "image"


OfModality = Annotated[Modality, typer.Argument(help="Kind of content.")]


@app.command()
def mark(
    file: File,
    output: Annotated[Path | None, typer.Option(help="Where to write it; by default FILE.marked.<suffix>.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="A PNG of original, marked and difference; by default beside the output.")
    ] = None,
    model_version: Annotated[str, typer.Option(help="`models/<id>/versions/<n>` that made the image.")] = "",
    min_psnr_db: Annotated[
        float, typer.Option(help="Least PSNR, dB: less is a stronger mark. Default 42.1, less in small images.")
    ] = 0,
    quality: Annotated[int, typer.Option(help="Of JPEG and WebP, 1 to 100. Default 95.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Mark an image: PNG, JPEG or WebP, of 128 pixels a side or more. Text is marked while it is made: `write`."""
    from deepseek.watermark.image.files import read_image
    from deepseek.watermark.image.picture import mark_picture

    original = file.read_bytes()
    if _text(original) is not None:
        message = f"{file} is text, which cannot be marked afterwards; use `deepseek watermark write`"
        raise InvalidArgument("UNSUPPORTED_FILE", message, field="FILE")
    unmarked = read_image(original, field="FILE").flattened()
    output = output or file.with_suffix(f".marked{file.suffix}")
    picture = picture or output.with_suffix(".picture.png")
    make_folder(output.parent, "--output")
    make_folder(picture.parent, "--picture")
    with connect() as mesh:
        marked = mesh.watermarks.mark_image(
            original, model_version=model_version, min_psnr_db=min_psnr_db, encoding_quality=quality
        )
    with writing(output, "--output"):
        output.write_bytes(marked.image)
    sheet = mark_picture(unmarked, read_image(marked.image).flattened(), f"marked, {marked.psnr_db:.1f} dB")
    _save(sheet, picture, "--picture")
    answer = {
        "file": str(output),
        "picture": str(picture),
        "watermark": marked.watermark,
        "psnr_db": marked.psnr_db,
        "ssim": marked.ssim,
    }
    if as_json:
        print_json(answer)
    else:
        console.print(f"{output}: {marked.watermark}", highlight=False)
        console.print(f"{marked.psnr_db:.1f} dB, SSIM {marked.ssim:.4f}; see {picture}", highlight=False)


@app.command()
def detect(
    file: File,
    model: Annotated[str, typer.Option(help="For text: the served language model that it may be of.")] = "",
    picture: Annotated[Path | None, typer.Option(help="A PNG of the image with a frame around its mark.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look for a mark in an image, or in a text of a model. An image may be scaled, turned, cropped and compressed."""
    from deepseek.client.writing import Writer

    data = file.read_bytes()
    text = _text(data)
    if (text is not None) != bool(model):
        message = f"{file} is no text in UTF-8; leave --model out if it is an image"
        if text is not None:
            message = f"{file} is text; give the model whose it may be, as its tokens carry the mark"
        raise InvalidArgument("BAD_VALUE", message, field="--model")
    if picture:
        make_folder(picture.parent, "--picture")
    with connect() as mesh:
        if text is None:
            found = mesh.watermarks.detect_image(data)
            answer = {"verdict": _verdict(found), "p": found.p, **_origin(mesh, found, Modality.IMAGE)}
        else:
            writer = Writer(mesh, model)
            found = mesh.watermarks.detect_text(writer.tokens(text), model_version=writer.version)
            answer = {"verdict": _verdict(found), "p": found.p, "as_text_of": writer.version}
            answer |= _origin(mesh, found, Modality.TEXT)
    if found.HasField("region"):
        answer["region"] = [found.region.left, found.region.top, found.region.right, found.region.bottom]
    if text is not None:
        answer["spans"] = [{"start": span.start, "end": span.end, "watermark": span.watermark} for span in found.spans]
    if picture and found.HasField("region"):
        _save(_framed(data, found), picture, "--picture")
    if as_json:
        print_json(answer)
        return
    colour = {"marked": "green", "not marked": "red"}.get(answer["verdict"], "yellow")
    console.print(f"[bold {colour}]{answer['verdict']}[/]  p <= {found.p:g}", highlight=False)
    for name in ("as_text_of", "watermark", "model_version", "content_sha256", "region"):
        if answer.get(name):
            console.print(f"  {name}: {answer[name]}", highlight=False, markup=False, soft_wrap=True)
    if answer.get("registered") is False:
        console.print("  not in the registry: forged, or of another mesh", style="yellow", highlight=False)
    for span in found.spans:
        excerpt = (text or "")[span.start : min(span.end, span.start + 60)].replace("\n", " ")
        console.print(f"  {span.start}-{span.end}: {excerpt}…", highlight=False, markup=False)


@app.command()
def write(
    model: Annotated[str, typer.Argument(help="A served language model.")],
    prompt: Annotated[str, typer.Option(help="What the text goes on from.")],
    length: Annotated[int, typer.Option(help="Tokens to write.", min=1, max=4096)] = 400,
    output: Annotated[Path | None, typer.Option(help="Where to write the text, without the prompt.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write text with a language model, marked while it is drawn: each token keeps its probability."""
    from deepseek.client.writing import Writer

    if output:
        make_folder(output.parent, "--output")
    with connect() as mesh:
        writer = Writer(mesh, model)
        with mesh.watermarks.drawing(model_version=writer.version) as stream:
            pieces = []
            for piece in writer.write(prompt, length, stream.draw):
                pieces.append(piece)
                # On standard error, so that people see it grow and programs get it whole.
                error_console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
            error_console.print()
        text = "".join(pieces)
        if output:
            with writing(output, "--output"):
                output.write_text(text, encoding="utf-8")
        mesh.watermarks.set_content(stream.watermark, text.encode())
    if as_json:
        print_json({"text": text, "watermark": stream.watermark, "model_version": writer.version})
    else:
        console.print(stream.watermark, highlight=False)


@app.command()
def keys(modality: OfModality, as_json: AsJson = False) -> None:
    """List the keys of a kind of content, newest first."""
    with connect() as mesh:
        found = [_key(key) for key in mesh.watermarks.keys(_number(modality))]
    if as_json:
        print_json({"keys": found})
    else:
        print_table(("epoch", "state", "created", "revoked"), (list(key.values()) for key in found))


@app.command()
def rotate(modality: OfModality, as_json: AsJson = False) -> None:
    """Make a new key to mark by; marks of earlier ones are still found."""
    with connect() as mesh:
        key = _key(mesh.watermarks.rotate_key(_number(modality)))
    if as_json:
        print_json(key)
    else:
        console.print(f"{modality} is marked by epoch {key['epoch']} from now on", highlight=False)


@app.command()
def revoke(
    modality: OfModality,
    epoch: Annotated[int, typer.Argument(help="Which key, as `keys` lists them.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a key out of use for good: what was marked by it is not found any more. For keys that others got to know."""
    if not yes:
        typer.confirm(f"Marks of {modality} epoch {epoch} will never be found again. Go on?", abort=True, err=True)
    with connect() as mesh:
        key = _key(mesh.watermarks.revoke_key(_number(modality), epoch))
    if as_json:
        print_json(key)
    else:
        console.print(f"{modality} epoch {epoch} is {key['state']}", highlight=False)


def _number(modality: Modality) -> "watermark_pb2.Modality":
    from protos.watermark.v1 import watermark_pb2

    return watermark_pb2.MODALITY_TEXT if modality is Modality.TEXT else watermark_pb2.MODALITY_IMAGE


def _key(key: "watermark_pb2.Key") -> dict[str, Any]:
    from protos.watermark.v1 import watermark_pb2

    return {
        "epoch": key.epoch,
        "state": watermark_pb2.KeyState.Name(key.state).removeprefix("KEY_STATE_").lower(),
        "created": key.create_time.ToJsonString(),
        "revoked": key.revoke_time.ToJsonString() if key.HasField("revoke_time") else "",
    }


def _verdict(found: "watermark_pb2.Detection") -> str:
    from protos.watermark.v1 import watermark_pb2

    return watermark_pb2.Verdict.Name(found.verdict).removeprefix("VERDICT_").replace("_", " ").lower()


def _origin(mesh: "Mesh", found: "watermark_pb2.Detection", modality: Modality) -> dict[str, Any]:
    """What the registry knows of the mark, if there is one. What it knows otherwise is another mark, so of this one it
    knows nothing."""
    if not found.watermark:
        return {}
    unknown = {"watermark": found.watermark, "registered": False}
    try:
        known = mesh.watermarks.get(found.watermark)
    except NotFound:
        return unknown
    is_of_another_key = found.HasField("evidence") and found.evidence.epoch != known.key_epoch
    if known.modality != _number(modality) or is_of_another_key:
        return unknown
    return {
        "watermark": found.watermark,
        "registered": True,
        "model_version": known.model_version,
        "content_sha256": known.content_sha256,
    }


def _text(data: bytes) -> str | None:
    """Text of a file; None if it is none, so that it can be an image only."""
    try:
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except UnicodeDecodeError:
        return None


def _framed(data: bytes, found: "watermark_pb2.Detection") -> "Image.Image":
    from deepseek.watermark.image.detector import Region
    from deepseek.watermark.image.files import read_image
    from deepseek.watermark.image.picture import region_picture

    region = Region(found.region.left, found.region.top, found.region.right, found.region.bottom)
    return region_picture(read_image(data).flattened(), region)


def _save(picture: "Image.Image", path: Path, option: str) -> None:
    with writing(path, option):
        picture.save(path, "PNG")
