"""The parameters of a run that its rounds depend on, and the checks before a run starts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.federated.arrays import Shapes, max_bytes, num_values
from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.private_mean import check_clip_norm
from deepseek.federated.strategy import Strategy
from deepseek.privacy.releases import Release

_CLOSING_S, _CLOSING_S_PER_VALUE = 1.0, 2e-7
"""To check, clip and add an update takes about 5e-8 s per value."""
_COPIES_OF_SUM = 7
"""Size of an update, its clipped values and the sum, relative to the update."""

MAX_NORM_RATIO = 10.0
"""`UpdateLimits.max_norm_ratio` of a run without privacy whose spec sets no `max_update_norm`."""
MAX_EXAMPLES = 1_000_000_000
"""Default of `UpdateLimits.max_examples`."""


@dataclass(frozen=True)
class Sampling:
    """Which nodes a round asks.

    Attributes:
        kind: `all`: every node. `uniform`: `num_nodes` nodes, drawn without replacement. `poisson`: every node with
            probability `rate`, independently.
    """

    kind: Literal["all", "uniform", "poisson"] = "all"
    num_nodes: int = 0
    rate: float = 1.0


@dataclass(frozen=True)
class RunPrivacy:
    """How a run is protected.

    Attributes:
        unit: `client`: the coordinator clips every update to `clip_norm` and adds noise of `release.noise_multiplier *
            clip_norm` to their sum. `example`: the nodes have made their updates private already.
        budget: Name of the budget that is debited.
        release: The release that is debited for one round.
        clip_norm: Bound on the L2 norm of one node's update; only used with the unit `client`.
    """

    unit: Literal["client", "example"]
    budget: str
    release: Release
    clip_norm: float = 1.0

    @property
    def debits_first(self) -> bool:
        """Whether an attempt is debited before its tasks are sent: what nodes send is a release already."""
        return self.unit == "example"


@dataclass(frozen=True)
class UpdateLimits:
    """Which updates are refused.

    Attributes:
        max_update_norm: L2 norm above which an update is refused; 0 means no such bound.
        max_norm_ratio: Multiple of the median L2 norm of a round's updates above which an update is refused, when the
            round closes; 0 means no such bound. See `updates.within_ratio`.
        max_examples: Number of examples above which an update is refused as implausible.
    """

    max_update_norm: float = 0.0
    max_norm_ratio: float = 0.0
    max_examples: int = MAX_EXAMPLES


@dataclass(frozen=True)
class RunPlan:
    """A run, as `RoundRunner` executes it. It is the same for every attempt to execute the run.

    Attributes:
        run: Name of the run.
        num_rounds: Number of rounds to release.
        nodes: Fingerprints of all nodes of the federation. Their number is public.
        shapes: Names and shapes of the model's arrays.
        initial_model: Key in the vault of the model before round 1.
        strategy: How updates are combined.
        task: Members of every task's config, e.g. `recipe` and `fit`. `kind`, `run`, `round`, `seed` and `node` are
            added.
        seed: Seed of the run, from which nodes derive all randomness that need not be secret.
        deadline_s: Seconds after which a round closes without the nodes that have not replied. They start again with
            each run of the engine: nodes need time to connect again and to repeat their work. A round whose cohort is
            secret never closes earlier.
        quorum: Number of updates without which a round is repeated. With the unit `client`, the number of nodes that
            must be online before a cohort is drawn, because a choice that depends on which nodes were drawn would void
            the amplification by sampling. With the unit `example`, also the number of nodes of the cohort that must be
            online before the budget is debited.
        max_retries: Number of times that a round may be repeated.
        max_round_bytes: Size in bytes that the updates of a round may have together. They are in memory until it
            closes; of a sum to which the coordinator adds noise, only the sum is.
        check_nodes: Whether the nodes that are online are asked before the first round whether they can take part.
            Their workers must support tasks of the kind `evaluate` with the member `check`.
    """

    run: str
    num_rounds: int
    nodes: tuple[str, ...]
    shapes: Shapes
    initial_model: str
    strategy: Strategy
    task: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    sampling: Sampling = Sampling()
    privacy: RunPrivacy | None = None
    limits: UpdateLimits = UpdateLimits()
    deadline_s: float = 600.0
    quorum: int = 1
    max_retries: int = 3
    max_round_bytes: float = math.inf
    check_nodes: bool = False

    @property
    def secret(self) -> bool:
        """Whether the cohorts, and everything that depends on them, are secret."""
        return self.privacy is not None and self.privacy.unit == "client"

    @property
    def debits_first(self) -> bool:
        """Whether an attempt is debited before its tasks are sent, see `RunPrivacy.debits_first`."""
        return self.privacy is not None and self.privacy.debits_first

    @property
    def release_of_nodes(self) -> Release | None:
        """What each node releases in a round, which is debited; None if the noise is not added by the nodes."""
        return self.privacy.release if self.privacy is not None and self.privacy.unit == "example" else None

    @property
    def hides_cohorts(self) -> bool:
        """Whether the guarantee requires that nobody learns who was asked, even from the time when a round closes."""
        return self.secret and self.sampling.kind == "poisson" and self.sampling.rate < 1

    @property
    def closing_s(self) -> float:
        """Seconds before its deadline at which a round whose cohort is hidden takes no more updates; else 0.

        It is longer than it takes to add one, which must not delay the close.
        """
        if not self.hides_cohorts:
            return 0.0
        longest = max(min(_CLOSING_S, self.deadline_s / 10), num_values(self.shapes) * _CLOSING_S_PER_VALUE)
        return min(longest, self.deadline_s / 2)

    @property
    def expected_cohort(self) -> float:
        """Expected size of a cohort, a public constant."""
        if self.sampling.kind == "poisson":
            return self.sampling.rate * len(self.nodes)
        return float(self.sampling.num_nodes if self.sampling.kind == "uniform" else len(self.nodes))

    @property
    def max_cohort(self) -> int:
        """Number of nodes that a round asks at most; with Poisson sampling, a number that is hardly ever exceeded.

        It is then six standard deviations of the binomial distribution above its mean.
        """
        expected = self.expected_cohort
        if self.sampling.kind != "poisson":
            return round(expected)
        return min(len(self.nodes), math.ceil(expected + 6 * math.sqrt(expected * (1 - self.sampling.rate))))

    def check(self) -> None:
        """Checks that the run can be executed and, with privacy, that the accounting matches the execution.

        Raises:
            FailedPrecondition: NO_NODES, TOO_FEW_NODES, ACCOUNTING_CHANGED.
            InvalidArgument: BAD_VALUE, BAD_RATE, BAD_NOISE, QUORUM_TOO_LARGE, STRATEGY_NOT_PRIVATE,
                SAMPLING_NOT_PRIVATE; the field is a path in FederatedRunSpec.
        """
        self._check_values()
        self._check_cohorts()
        if self.privacy is not None:
            self._check_privacy(self.privacy)

    def check_memory(self) -> None:
        """Checks that the updates of a round fit into memory. The limit may change while a run is in progress.

        Raises:
            FailedPrecondition: ROUND_TOO_LARGE.
        """
        update = max_bytes(self.shapes)
        needed = (_COPIES_OF_SUM if self.secret else self.max_cohort) * update
        if needed > self.max_round_bytes:
            raise FailedPrecondition(
                "ROUND_TOO_LARGE",
                f"a round may ask {self.max_cohort} nodes for updates of {update / 1e6:,.1f} MB each, which would need "
                f"{needed / 1e9:,.2f} GB of memory; the coordinator allows {self.max_round_bytes / 1e9:,.2f} GB. Ask "
                "fewer nodes, train a smaller model, or raise max_round_bytes of the coordinator",
                field="sampling",
            )

    def _check_values(self) -> None:
        positive = {"num_rounds": self.num_rounds, "deadline_s": self.deadline_s}
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be above 0", field=name)
        not_negative = {
            "quorum": self.quorum,
            "max_retries": self.max_retries,
            "max_update_norm": self.limits.max_update_norm,
        }
        for name, value in not_negative.items():
            if not 0 <= value < math.inf:
                raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must not be negative", field=name)

    def _check_cohorts(self) -> None:
        if not self.nodes:
            message = "the federation has no nodes; register nodes before starting a run"
            raise FailedPrecondition("NO_NODES", message, field="sampling")
        if self.sampling.kind == "uniform" and not 1 <= self.sampling.num_nodes <= len(self.nodes):
            raise FailedPrecondition(
                "TOO_FEW_NODES",
                f"each round would ask {self.sampling.num_nodes} nodes; the federation has {len(self.nodes)}",
                field="sampling.num_nodes",
            )
        if self.sampling.kind == "poisson" and not 0 < self.sampling.rate <= 1:
            raise InvalidArgument(
                "BAD_RATE", f"rate is {self.sampling.rate}; it must be above 0 and at most 1", field="sampling.rate"
            )
        # With secret cohorts, the quorum is a number of nodes that are online, and not of those that are asked.
        num, what = (len(self.nodes), "the federation has") if self.secret else (self.expected_cohort, "a round asks")
        if self.quorum > num:
            message = f"quorum is {self.quorum}, but {what} {num:g} nodes; lower the quorum, or ask more nodes"
            raise InvalidArgument("QUORUM_TOO_LARGE", message, field="quorum")

    def _check_privacy(self, privacy: RunPrivacy) -> None:
        if not privacy.release.noise_multiplier > 0:
            raise InvalidArgument(
                "BAD_NOISE",
                "noise_multiplier is 0, so a budget would be spent without any protection; set it above 0, or remove "
                "the privacy of the run",
                field="privacy.noise_multiplier",
            )
        if privacy.unit == "example":
            # From the settings that nodes receive: these decide what is released, whatever was planned.
            released = FitSettings.from_json(self.task.get("fit", {})).release
            if released != privacy.release:
                message = (
                    f"nodes would release {released} per round, but {privacy.release} is debited, as another version "
                    "of the coordinator planned when the run was started; start the run again"
                )
                raise FailedPrecondition("ACCOUNTING_CHANGED", message, field="privacy")
            return
        self.strategy.check_private()
        check_clip_norm(privacy.clip_norm)
        if self.sampling.kind == "uniform":
            raise InvalidArgument(
                "SAMPLING_NOT_PRIVATE",
                "a fixed number of sampled nodes is not protected: the presence of one node determines whether another "
                "is sampled, which can change the result by twice clip_norm; set sampling.rate or ask all nodes",
                field="sampling.num_nodes",
            )
        rate = self.sampling.rate if self.sampling.kind == "poisson" else 1.0
        assert privacy.release == Release(privacy.release.noise_multiplier, rate), "accounting must match sampling"
