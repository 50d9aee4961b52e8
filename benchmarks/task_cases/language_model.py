"""The next character of Python's language reference, which is part of Python (`pydoc_data.topics`)."""

from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from benchmarks.task_cases.task import Score, Task, read_table, right_answers, served_labels, write_table

NUM_CHARACTERS = 200_000
"""Size of the text to learn from."""
EVERY = 10
"""Every tenth topic is held out."""
PASSAGE = 128
CONTEXT = 64
NUM_QUESTIONS = 1000
_VOCABULARY, _SPECIAL = 256, 2
_EPOCHS, _BATCH_SIZE, _RATE = 20, 16, 0.003


def texts() -> tuple[str, str]:
    """Returns the text to learn from, and the topics that are held out."""
    names = sorted(topics)
    known = "\n".join(topics[name] for i, name in enumerate(names) if i % EVERY)
    return known[:NUM_CHARACTERS], "\n".join(topics[name] for name in names[::EVERY])


def write(folder: Path) -> None:
    """Writes the text, and evenly spaced passages of other topics, each with the character that follows it."""
    known, held_out = texts()
    (folder / "reference.txt").write_text(known, encoding="utf-8")
    starts = range(0, len(held_out) - CONTEXT, (len(held_out) - CONTEXT) // NUM_QUESTIONS)[:NUM_QUESTIONS]
    rows = [{"text": held_out[i : i + CONTEXT], "next": held_out[i + CONTEXT]} for i in starts]
    write_table(folder / "questions.csv", rows)


def score(folder: Path, outputs: Sequence[Any]) -> Score:
    """Scores the served model's likeliest next characters."""
    return right_answers([row["next"] for row in read_table(folder / "questions.csv")], served_labels(outputs[-1]))


def baseline_score(folder: Path) -> Score:
    """Trains a GRU for as many epochs as the task's spec allows, with the same optimizer and schedule.

    It needs neither held-out nor test passages, so it trains on the whole text.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F

    text = (folder / "reference.txt").read_text(encoding="utf-8")
    tokens = {character: number for number, character in enumerate(sorted(set(text)), _SPECIAL)}
    rows = read_table(folder / "questions.csv")

    def encoded(passages: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[tokens.get(character, 1) for character in passage] for passage in passages])

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(_VOCABULARY, 64)
            self.gru = nn.GRU(64, 256, batch_first=True)
            self.head = nn.Linear(256, _VOCABULARY)

        def forward(self, text: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.gru(self.embedding(text))[0])
            return logits

    torch.manual_seed(0)
    passages = encoded([text[i : i + PASSAGE] for i in range(0, len(text) - PASSAGE, PASSAGE)])
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE)
    num_steps = _EPOCHS * -(-len(passages) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=num_steps, cycle_momentum=False)
    for _ in range(_EPOCHS):
        for batch in passages[torch.randperm(len(passages))].split(_BATCH_SIZE):
            loss = F.cross_entropy(network(batch)[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    with torch.inference_mode():
        best = network(encoded([row["text"] for row in rows]))[:, -1].argmax(1)
    characters = {token: character for character, token in tokens.items()}
    return right_answers([row["next"] for row in rows], [characters.get(int(token), "") for token in best])


TASK = Task(
    baseline="PyTorch GRU(256)",
    commands=(
        ("dataset", "import", "reference", "reference.txt", "--passage", str(PASSAGE), "--test-share", "0.1"),
        ("train", "--task", "language-model", "--dataset", "reference", "--model", "reference"),
        ("model", "load", "reference"),
        ("predict", "reference", "--file", "questions.csv", "--tokens", "1", "--temperature", "0"),
    ),
    write=write,
    score=score,
    baseline_score=baseline_score,
)
