"""Tells the type of a file from its extension and from its first bytes."""

from functools import lru_cache

from common.errors import InvalidArgument

EXTENSIONS = {
    "image": {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "jpe": "JPEG", "jfif": "JPEG", "webp": "WebP"}
    | dict.fromkeys(("gif", "bmp", "tif", "tiff", "heic", "avif"), ""),
    "audio": {"wav": "WAV", "flac": "FLAC", "ogg": "Ogg", "oga": "Ogg", "opus": "Ogg"}
    | dict.fromkeys(("mp3", "m4a", "aac", "aif", "aiff", "au"), ""),
    "text": dict.fromkeys(("txt", "text", "caption"), ""),
}
"""Extensions of each field type, with the format that they promise. Formats that the mesh does not decode have no name;
the check of their samples rejects them."""

_KINDS = {extension: kind for kind, extensions in EXTENSIONS.items() for extension in extensions}
_FORMATS = {extension: name for extensions in EXTENSIONS.values() for extension, name in extensions.items()}
_MAGIC = ((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"fLaC", "FLAC"), (b"OggS", "Ogg"))
_FORMAT_KINDS = {name: kind for kind, extensions in EXTENSIONS.items() for name in extensions.values() if name}
_EXTENSION_OF = {"PNG": "png", "JPEG": "jpg", "WebP": "webp", "WAV": "wav", "FLAC": "flac", "Ogg": "ogg"}


def kind_of_name(name: str) -> str:
    """Returns the field type that a file name promises: `image`, `audio`, `text`, or empty if it is unknown.

    >>> kind_of_name("cats/1.JPG"), kind_of_name("LICENSE")
    ('image', '')
    """
    return _KINDS.get(extension(name), "")


def kind_of_content(data: bytes) -> str:
    """Returns the field type of a file's content: `image`, `audio`, `text` or `bytes`."""
    if found := _FORMAT_KINDS.get(format_of(data), ""):
        return found
    try:
        return "bytes" if b"\0" in data else data.decode() and "text"
    except UnicodeDecodeError:
        return "bytes"


def format_of(data: bytes) -> str:
    """Returns the name of the image or audio format of a file's content; empty if it is none that the mesh decodes."""
    if data[:4] == b"RIFF" and data[8:12] in (b"WAVE", b"WEBP"):
        return "WAV" if data[8:12] == b"WAVE" else "WebP"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), "")


def suffix_of(data: bytes, kind: str) -> str:
    """Returns the file name extension for a value of a field type, e.g. `jpg`."""
    return {"text": "txt", "bytes": "bin"}.get(kind) or _EXTENSION_OF.get(format_of(data), "bin")


def check_extension(name: str, data: bytes) -> None:
    """Checks that the content of an image or audio file has the format that its extension promises.

    Raises:
        InvalidArgument: WRONG_EXTENSION.
    """
    promised, found = _FORMATS.get(extension(name), ""), format_of(data)
    if promised and found and promised != found:
        message = f"{name} is a {found} file; rename it to end with .{_EXTENSION_OF[found]}"
        raise InvalidArgument("WRONG_EXTENSION", message)


@lru_cache(maxsize=4096)  # a folder of files asks several times for each, but only after listing all of them
def extension(name: str) -> str:
    """Returns the part of a file name after its last dot, in lower case; empty if the name has none."""
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    return last.lower() if dot and stem else ""
