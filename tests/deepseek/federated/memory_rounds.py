"""Rounds in memory."""

import threading
from collections.abc import Sequence

from common.errors import NotFound
from deepseek.federated.rounds import Round, RoundState, RoundStore, check_added, check_advanced


class MemoryRoundStore(RoundStore):
    """Stores rounds in the object only. They are lost when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rounds: dict[str, list[Round]] = {}

    def newest(self, run: str) -> Round | None:
        with self._lock:
            rounds = self._rounds.get(run)
            return rounds[-1] if rounds else None

    def released(self, run: str, round_number: int) -> Round | None:
        with self._lock:
            for stored in self._rounds.get(run, []):
                if stored.round == round_number and stored.state is RoundState.RELEASED:
                    return stored
            return None

    def attempts(self, run: str, round_number: int) -> Sequence[Round]:
        with self._lock:
            return [stored for stored in self._rounds.get(run, []) if stored.round == round_number]

    def add(self, new: Round) -> None:
        with self._lock:
            rounds = self._rounds.setdefault(new.run, [])
            if rounds and rounds[-1] == new:
                return
            check_added(new, rounds[-1] if rounds else None)
            rounds.append(new)

    def advance(self, changed: Round, *, expected: RoundState) -> None:
        with self._lock:
            rounds = self._rounds.get(changed.run, [])
            for index, stored in enumerate(rounds):
                if (stored.round, stored.attempt) == (changed.round, changed.attempt):
                    if stored != changed:
                        check_advanced(stored, changed, expected)
                        rounds[index] = changed
                    return
        raise NotFound("ROUND_NOT_FOUND", f"{changed.run} has no attempt {changed.attempt} at round {changed.round}")

    def history(self, run: str) -> list[Round]:
        """Returns all attempts, in the order in which they were added."""
        with self._lock:
            return list(self._rounds.get(run, []))
