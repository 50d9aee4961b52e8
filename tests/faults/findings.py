"""What is wrong after a trial, counted and told."""

from dataclasses import dataclass, field


@dataclass
class Findings:
    """What one trial found. Lists hold a sentence a case.

    Attributes:
        lost_writes: Acknowledged, and not there afterwards.
        torn_reads: Read, and not what was written.
        double_writers: Written more than once, or by somebody who had lost the right to.
        unfinished_jobs: Jobs that did not come to the result of an undisturbed one, and clients that gave up.
        num_acknowledged: Writes that were acknowledged.
        num_reads: Reads that were compared with what was written.
        restarts_s: Seconds from the start of a process to its health check's yes.
    """

    lost_writes: list[str] = field(default_factory=list)
    torn_reads: list[str] = field(default_factory=list)
    double_writers: list[str] = field(default_factory=list)
    unfinished_jobs: list[str] = field(default_factory=list)
    num_acknowledged: int = 0
    num_reads: int = 0
    restarts_s: list[float] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Takes over what another found."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def wrong(self) -> list[str]:
        """Everything that is wrong."""
        return [*self.lost_writes, *self.torn_reads, *self.double_writers, *self.unfinished_jobs]
