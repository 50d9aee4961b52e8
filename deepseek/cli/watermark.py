"""`deepseek watermark`: marks images and text, detects the marks, and manages the keys for both."""

import io
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from common.errors import FailedPrecondition, InvalidArgument, NotFound
from deepseek.cli.completion import MODEL_VERSION
from deepseek.cli.output import AsJson, console, error_console, make_folder, print_json, print_table, writing
from deepseek.cli.statuses import INCONCLUSIVE, NOT_MARKED
from deepseek.client import connect
from deepseek.client.names import served_version, version_name

if TYPE_CHECKING:
    from PIL import Image

    from deepseek.client import Mesh
    from protos.watermark.v1 import watermark_pb2

app = typer.Typer(
    help="Mark images and text invisibly, and detect the marks. A mark carries an id that the registry records.",
    no_args_is_help=True,
)

_STATUSES = {"marked": 0, "not marked": NOT_MARKED, "inconclusive": INCONCLUSIVE}


class Modality(StrEnum):
    """A kind of content."""

    TEXT = "text"
    IMAGE = "image"


OfModality = Annotated[Modality, typer.Argument(help="Kind of content.")]


@app.command()
def mark(
    file: Annotated[
        Path, typer.Argument(help="PNG, JPEG or WebP image of at least 128 x 128 pixels.", exists=True, dir_okay=False)
    ],
    output: Annotated[
        Path | None, typer.Option(help="File for the marked image; default: FILE.marked.<suffix>.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="PNG file that shows the original, the marked image and their difference; default: next to the output."
        ),
    ] = None,
    model_version: Annotated[
        str, typer.Option(help="Version that generated the image, e.g. painter:3.", autocompletion=MODEL_VERSION)
    ] = "",
    min_psnr_db: Annotated[
        float,
        typer.Option(
            help="Minimum PSNR in dB; a lower value allows a stronger mark. Default: 42.1, less for small images."
        ),
    ] = 0,
    quality: Annotated[int, typer.Option(help="Encoding quality of JPEG and WebP, 1 to 100. Default: 95.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the output and the picture if they exist.")] = False,
    as_json: AsJson = False,
) -> None:
    """Mark an image. To generate marked text, use `write`.

    If the image already carries a mark, print a warning and add a second one, unless the first mark would hide the
    second one; `detect` reports only one of them.
    """
    from deepseek.watermark.image.comparison import mark_picture
    from deepseek.watermark.image.files import read_image

    original = file.read_bytes()
    if _text(original) is not None:
        message = f"{file} is text, which can only be marked while it is generated; use `deepseek watermark write`"
        raise InvalidArgument("UNSUPPORTED_FILE", message, field="FILE")
    unmarked = read_image(original, field="FILE").flattened()
    output = output or file.with_suffix(f".marked{file.suffix}")
    picture = picture or output.with_suffix(".picture.png")
    for path, option in ((output, "--output"), (picture, "--picture")):
        make_folder(path.parent, option)
        if path.exists() and not force:
            message = f"{path} already exists; choose another path with {option}, or replace the file with --force"
            raise FailedPrecondition("OUTPUT_EXISTS", message, field=option)
    generator = version_name(model_version, "models", field="--model-version") if model_version else ""
    with connect() as mesh:
        earlier = mesh.watermarks.detect_image(original, locate=False, aligned_only=True)
        marked = mesh.watermarks.mark_image(
            original, model_version=generator, min_psnr_db=min_psnr_db, encoding_quality=quality
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
        "earlier_watermark": earlier.watermark,
    }
    if _verdict(earlier) == "marked":
        found = earlier.watermark or "a mark without an id"
        message = f"warning: {file} already carries {found}; `detect` reports only one of the two marks"
        error_console.print(message, style="bold yellow", highlight=False, soft_wrap=True)
    if as_json:
        print_json(answer)
    else:
        console.print(f"{output}: {marked.watermark}", highlight=False)
        console.print(f"{marked.psnr_db:.1f} dB, SSIM {marked.ssim:.4f}; see {picture}", highlight=False)


@app.command()
def detect(
    file: Annotated[Path, typer.Argument(help="Image or UTF-8 text.", exists=True, dir_okay=False)],
    model: Annotated[
        str,
        typer.Option(
            help="For text only: the served language model that may have written it.", autocompletion=MODEL_VERSION
        ),
    ] = "",
    picture: Annotated[
        Path | None, typer.Option(help="PNG file that shows the image with a frame around its mark.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Detect a mark in an image or a model's text. The image may have been scaled, rotated, cropped or compressed.

    Exit with status 0 if the content is marked, 3 if it is not marked, and 4 if the result is inconclusive.
    """
    from deepseek.client.writing import Writer

    data = file.read_bytes()
    text = _text(data)
    if (text is not None) != bool(model):
        message = f"{file} is not UTF-8 text; omit --model for an image"
        if text is not None:
            message = f"{file} is text, so its tokens must be searched; name the model that may have written the text"
        raise InvalidArgument("BAD_VALUE", message, field="--model")
    if model:
        served_version(model, field="--model")
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
    else:
        _show(answer, found, text or "")
    if status := _STATUSES[answer["verdict"]]:
        raise typer.Exit(status)


def _show(answer: dict[str, Any], found: "watermark_pb2.Detection", text: str) -> None:
    colour = {"marked": "green", "not marked": "red"}.get(answer["verdict"], "yellow")
    console.print(Text(answer["verdict"], style=f"bold {colour}"), f" p <= {found.p:g}", highlight=False)
    for name in ("as_text_of", "watermark", "model_version", "content_sha256", "region"):
        if answer.get(name):
            console.print(f"  {name}: {answer[name]}", highlight=False, soft_wrap=True)
    if answer.get("registered") is False:
        console.print("  not in the registry: forged, or from another mesh", style="yellow", highlight=False)
    for span in found.spans:
        excerpt = text[span.start : min(span.end, span.start + 60)].replace("\n", " ")
        console.print(f"  {span.start}-{span.end}: {excerpt}…", highlight=False)


@app.command()
def write(
    model: Annotated[str, typer.Argument(help="A served language model.", autocompletion=MODEL_VERSION)],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    length: Annotated[int, typer.Option(help="Number of tokens to write.", min=1, max=4096)] = 400,
    output: Annotated[Path | None, typer.Option(help="File for the text, without the prompt.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write marked text with a language model. Marking does not change the tokens' probabilities."""
    from deepseek.client.writing import Writer

    served_version(model, field="MODEL")
    if output:
        make_folder(output.parent, "--output")
    with connect() as mesh:
        writer = Writer(mesh, model)
        with mesh.watermarks.drawing(model_version=writer.version) as stream:
            pieces = []
            for piece in writer.write(prompt, length, stream.draw):
                pieces.append(piece)
                # People watch the text grow on standard error. Programs read the complete text from standard output.
                error_console.print(piece, end="", highlight=False, soft_wrap=True)
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
    """List the keys for a kind of content, newest first."""
    with connect() as mesh:
        found = [_key(key) for key in mesh.watermarks.keys(_number(modality))]
    if as_json:
        print_json({"keys": found})
    else:
        columns = ("epoch", "state", "created", "revoked")
        none = f"there are no keys for {modality}; the first mark creates one"
        print_table(columns, (list(key.values()) for key in found), none=none)


@app.command()
def rotate(modality: OfModality, as_json: AsJson = False) -> None:
    """Create a new key for marking. Earlier keys are still used for detection."""
    with connect() as mesh:
        key = _key(mesh.watermarks.rotate_key(_number(modality)))
    if as_json:
        print_json(key)
    else:
        console.print(f"{modality} is now marked with the key of epoch {key['epoch']}", highlight=False)


@app.command()
def revoke(
    modality: OfModality,
    epoch: Annotated[int, typer.Argument(help="Epoch of the key; see `deepseek watermark keys`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Revoke a key permanently, e.g. after a leak. Content marked with it is no longer detected."""
    if not yes:
        typer.confirm(
            f"Marks of {modality} epoch {epoch} will never be detected again. Continue?", abort=True, err=True
        )
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
    """Returns the registry's record of a detected mark; an empty dict if no mark was detected.

    If the record's modality or key differs from the detected mark's, it describes another mark that has the same id. In
    that case, the detected mark is reported as not registered.
    """
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
    """Decodes the content of a file. Returns None if it is not UTF-8 text; the file can then only be an image."""
    try:
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8").read()
    except UnicodeDecodeError:
        return None


def _framed(data: bytes, found: "watermark_pb2.Detection") -> "Image.Image":
    from deepseek.watermark.image.comparison import region_picture
    from deepseek.watermark.image.detector import Region
    from deepseek.watermark.image.files import read_image

    region = Region(found.region.left, found.region.top, found.region.right, found.region.bottom)
    return region_picture(read_image(data).flattened(), region)


def _save(picture: "Image.Image", path: Path, option: str) -> None:
    with writing(path, option):
        picture.save(path, "PNG")
