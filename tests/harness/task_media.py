"""Small recordings, a text and an ONNX model, for the pages under docs/tasks and the programs under examples."""

import csv
import json
import math
import struct
import wave
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

_RATE = 8000
_NUM_BYTES = 2048
_VOICES = {"bg": 250, "fr": 1000, "ru": 2500}
"""Languages, and the frequency in Hz that stands for each."""
_SPLITS = {"train": 12, "validation": 4, "test": 4}
_SENTENCE = "The import statement finds a module, and binds it to a name in the local scope.\n"


def write_task_media(folder: Path) -> None:
    """Writes voices/, voices.csv, reference.txt, questions.csv, magika.onnx, labels.txt and files.jsonl."""
    for split, number in _SPLITS.items():
        for language, frequency in _VOICES.items():
            (folder / "voices" / split / language).mkdir(parents=True, exist_ok=True)
            for i in range(number):
                _write_sound(folder / "voices" / split / language / f"{i}.wav", frequency + 10 * i)
    tests = sorted((folder / "voices" / "test").rglob("*.wav"))
    recordings = [[str(path.relative_to(folder)), path.parent.name] for path in tests]
    _write_csv(folder / "voices.csv", ["audio", "language"], recordings)
    (folder / "reference.txt").write_text(60 * _SENTENCE, encoding="utf-8")
    _write_csv(folder / "questions.csv", ["text", "next"], [[_SENTENCE[:i], _SENTENCE[i]] for i in range(8, 40, 4)])
    (folder / "magika.onnx").write_bytes(_file_types().SerializeToString())
    (folder / "labels.txt").write_text("text\njpeg\n", encoding="utf-8")
    rows = [{"name": name, "bytes": [byte] * _NUM_BYTES} for name, byte in (("a.txt", 97), ("a.jpg", 200))]
    (folder / "files.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_sound(path: Path, frequency: int) -> None:
    values = [round(12_000 * math.sin(2 * math.pi * frequency * t / _RATE)) for t in range(_RATE // 4)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes(struct.pack(f"<{len(values)}h", *values))


def _write_csv(path: Path, columns: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def _file_types() -> onnx.ModelProto:
    """Returns a model like Magika: probabilities of two types, from the mean of 2048 bytes."""
    nodes = [
        helper.make_node("Cast", ["bytes"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "mean"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["target_label"]),
    ]
    inputs = [helper.make_tensor_value_info("bytes", TensorProto.INT32, [None, _NUM_BYTES])]
    outputs = [helper.make_tensor_value_info("target_label", TensorProto.FLOAT, [None, 2])]
    mean = np.array([[0.0, 1 / _NUM_BYTES]], np.float32).repeat(_NUM_BYTES, 0)
    graph = helper.make_graph(nodes, "file types", inputs, outputs, [onnx.numpy_helper.from_array(mean, "mean")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
