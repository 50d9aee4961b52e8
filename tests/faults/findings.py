"""The findings of a trial."""

from dataclasses import dataclass, field


@dataclass
class Findings:
    """Findings of one trial; the lists have one sentence per case.

    Attributes:
        lost_writes: Acknowledged writes that are missing afterwards.
        torn_reads: Reads that returned something else than was written.
        double_writers: Writes that were done twice, or by a process that had lost its lease.
        unfinished_jobs: Jobs whose result differs from an undisturbed one's, and clients that gave up.
        num_acknowledged: Number of acknowledged writes.
        num_reads: Number of reads that were compared with what was written.
        restarts_s: Seconds from the start of a process until it reported that it was ready.
    """

    lost_writes: list[str] = field(default_factory=list)
    torn_reads: list[str] = field(default_factory=list)
    double_writers: list[str] = field(default_factory=list)
    unfinished_jobs: list[str] = field(default_factory=list)
    num_acknowledged: int = 0
    num_reads: int = 0
    restarts_s: list[float] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Adds other findings."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def wrong(self) -> list[str]:
        """All that is wrong."""
        return [*self.lost_writes, *self.torn_reads, *self.double_writers, *self.unfinished_jobs]
