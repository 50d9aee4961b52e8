"""The demo's report: report.json, a learning curve and a contact sheet."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from deepseek.data.media import decode_image
from deepseek.demo.serving import Asked
from protos.trainer.v1 import trainer_pb2

TILE_PX, TEXT_PX, COLUMNS, ROWS = 192, 64, 5, 4


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the figures."""
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_learning_curve(path: Path, events: Sequence[trainer_pb2.RunEvent]) -> None:
    """Draws loss over steps, and accuracy on the evaluation split after each epoch."""
    from matplotlib.figure import Figure

    steps = [event.step for event in events if event.HasField("step")]
    evaluations = [event.evaluation for event in events if event.HasField("evaluation")]
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    losses = figure.subplots()
    losses.plot(
        [s.step for s in steps], [_metric(s.metrics, "loss") for s in steps], color="tab:blue", label="training loss"
    )
    losses.set(xlabel="step", ylabel="training loss", yscale="log", title="easy-vqa: learning curve")
    shares = losses.twinx()
    shares.plot(
        [e.step for e in evaluations],
        [_metric(e.metrics, "accuracy") for e in evaluations],
        color="tab:orange",
        marker="o",
        label="test accuracy",
    )
    shares.set(ylabel="test accuracy", ylim=(0, 1.02))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path)


def write_contact_sheet(path: Path, asked: Sequence[Asked]) -> None:
    """Draws images with a question, the answer, and whether it is right; wrong answers come first."""
    wrong = [one for one in asked if one.predicted != one.answer][:COLUMNS]
    count = COLUMNS * ROWS - len(wrong)
    chosen = wrong + [asked[i * len(asked) // count] for i in range(count)]
    sheet = Image.new("RGB", (COLUMNS * TILE_PX, ROWS * (TILE_PX + TEXT_PX)), "white")
    draw = ImageDraw.Draw(sheet)
    font, bold = ImageFont.load_default(13), ImageFont.load_default(17)
    for index, one in enumerate(chosen):
        left, top = index % COLUMNS * TILE_PX, index // COLUMNS * (TILE_PX + TEXT_PX)
        tile = decode_image(one.image).resize((TILE_PX - 8, TILE_PX - 8), Image.Resampling.NEAREST)
        sheet.paste(tile, (left + 4, top + 4))
        right = one.predicted == one.answer
        for line, text in enumerate(_wrap(draw, one.question, font, TILE_PX - 12)[:2]):
            draw.text((left + 6, top + TILE_PX + line * 16), text, fill="black", font=font)
        verdict = one.predicted if right else f"{one.predicted} (it is {one.answer})"
        colour = "#12703a" if right else "#b3261e"
        draw.text((left + 24, top + TILE_PX + 36), verdict, fill=colour, font=bold)
        _draw_mark(draw, left + 6, top + TILE_PX + 40, right, colour)
    sheet.save(path, optimize=True)


def _metric(metrics: Sequence[trainer_pb2.MetricValue], name: str) -> float:
    return next((metric.value for metric in metrics if metric.name == name), float("nan"))


def _wrap(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _draw_mark(draw: ImageDraw.ImageDraw, x: int, y: int, right: bool, colour: str) -> None:
    """A tick or a cross: the colours alone would not tell everybody."""
    if right:
        draw.line([(x, y + 7), (x + 4, y + 12), (x + 13, y)], fill=colour, width=3)
    else:
        draw.line([(x, y), (x + 12, y + 12)], fill=colour, width=3)
        draw.line([(x + 12, y), (x, y + 12)], fill=colour, width=3)
