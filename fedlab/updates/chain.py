"""From what devices send to what the server learns: stages, then an aggregator.

A chain is checked when it is built: each stage says what it needs of what comes in, and a
combination that makes no sense is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedlab.core.typing import Places
from fedlab.core.validation import parts_of, require
from fedlab.device.states import DeviceStates
from fedlab.updates.aggregators import Aggregator, Joint, Mean
from fedlab.updates.private import DistributedNoise, LocalNoise, PrivateMean
from fedlab.updates.secure import SecureSum, SummedUnderMasks
from fedlab.updates.sent import Updates
from fedlab.updates.stages import At, Stage

#: What holds of updates as they leave local training, and what is said where it doesn't.
_AT_FIRST = frozenset({"rows", "linear", "fresh", "additive"})
_SAID = {
    "rows": "each device's own numbers",
    "linear": "blocks whose weighted sum means something",
    "integer": "whole numbers; put a stage before it that makes them",
    "hidden": "updates that only a sum can be read of; put a mask before it",
    "fresh": "changes as they were trained, neither clipped nor with what is owed",
    "additive": "updates that can be added up as they travel",
}
_INSTEAD = {
    "additive": "take RandomK(shared=True), by itself or in ErrorFeedback, or CountSketch",
}


#: What each stage remembers, and an aggregator behind them.
States = tuple[Any, ...]


class ChainError(ValueError):
    """Stages that don't go together."""


@dataclass(frozen=True)
class Chain:
    """Stages in their order, and the aggregator that ends them.

    Parameters
    ----------
    stages : sequence of Stage
    aggregator : Aggregator or Joint

    Raises
    ------
    ChainError
        If a stage, or the aggregator, needs what those before it don't leave.

    Examples
    --------
    >>> from fedlab.updates import Cast, ClipNorm
    >>> Chain((ClipNorm(1.0), Cast())).aggregator
    Mean()
    """

    stages: tuple[Stage, ...] = ()
    aggregator: Aggregator | Joint = Mean()  # noqa: RUF009 (a frozen value)

    def __post_init__(self) -> None:
        holds = _AT_FIRST
        for place, stage in enumerate(self.stages):
            if hasattr(stage, "begin") or hasattr(stage, "combine"):
                name = type(stage).__name__
                raise ChainError(f"{name} is no stage of updates=, but an aggregator: aggregator=")
            require(stage, f"stage {place + 1}", "needs", "gives", "takes", "init", "apply")
            self._refuse(stage, holds, self.stages[:place])
            holds = holds - stage.takes | stage.gives
        ways = ("init", "combine") if self.joint else ("begin", "add", "done")
        require(self.aggregator, "aggregator", "needs", *ways)
        if self.secure is not None and self.private is not None:
            raise ChainError(
                "PrivateMean clips and noises where updates can be read, and SecureSum hides them: "
                "noise in its sum would have to be the devices' own; take DistributedNoise with "
                "SecureSum, or leave one of the two out"
            )
        self._refuse(self.aggregator, holds, self.stages)
        if self.secure is not None and type(self.aggregator) is not Mean:
            raise ChainError("SecureSum adds up itself; leave out aggregator=")

    def _refuse(self, part: Any, holds: frozenset[str], before: Sequence[Stage]) -> None:
        last = "put it before that one" if hasattr(part, "apply") else "take another aggregator"
        for need in sorted(part.needs - holds):
            way = _INSTEAD.get(need, last)
            guilty = [type(stage).__name__ for stage in before if need in stage.takes]
            raise ChainError(
                f"{type(part).__name__} needs {_SAID.get(need, need)}"
                + (f", which {guilty[-1]} takes away; {way}" if guilty else "")
            )

    @property
    def joint(self) -> bool:
        """Whether the aggregator judges a device by all its blocks."""
        return hasattr(self.aggregator, "combine")

    @property
    def whole(self) -> bool:
        """Whether a cohort has to come at once."""
        return self.joint or any(getattr(stage, "whole", False) for stage in self.stages)

    @property
    def least(self) -> int:
        """Fewest devices that the aggregator can work on."""
        return getattr(self.aggregator, "least", 1)

    @property
    def shows_rows(self) -> bool:
        """Whether the server can read each device's own blocks."""
        return all("rows" not in stage.takes for stage in self.stages)

    @property
    def private(self) -> PrivateMean | None:
        """The aggregator, where it noises the sum."""
        return self.aggregator if isinstance(self.aggregator, PrivateMean) else None

    @property
    def noised(self) -> tuple[PrivateMean | LocalNoise | DistributedNoise, ...]:
        """The parts that make updates, or their sum, differentially private."""
        kinds = LocalNoise | DistributedNoise
        local = tuple(stage for stage in self.stages if isinstance(stage, kinds))
        return local if self.private is None else (*local, self.private)

    @property
    def secure(self) -> SecureSum | None:
        """The stage behind which a cohort's sum is all that is seen, or None."""
        return next((stage for stage in self.stages if isinstance(stage, SecureSum)), None)

    @property
    def fixed(self) -> Any:
        """The stage that makes the whole numbers of a secure sum."""
        return [stage for stage in self.stages if "integer" in stage.gives][-1]

    def open(
        self, places: Places, at: At, lost: Sequence[int] = (), **through: Any
    ) -> SummedUnderMasks | None:
        """Return a cohort's sum under masks, where a stage makes one."""
        if self.secure is None or not len(places) + len(lost):
            return None
        return SummedUnderMasks(self.secure, self.fixed, places, at, lost, **through)

    @property
    def drifts(self) -> bool:
        """Whether drift is known: how far updates lie apart around their mean."""
        plain = self.shows_rows and self.private is None
        return plain and "linear" in self.aggregator.needs

    def init(self, size: int) -> States:
        """Return the stages' states before the first round, and the aggregator's if it has one."""
        parts: list[Any] = [*self.stages, *([self.aggregator] if self.joint else [])]
        return tuple(part.init(size) for part in parts)

    def apply(
        self, states: States, sent: Updates, kept: DeviceStates, at: At
    ) -> tuple[Updates, States, DeviceStates]:
        """Send updates through all stages."""
        after, count, at = [], len(self.stages), at._replace(summed=self.secure is not None)
        for place, (stage, state) in enumerate(zip(self.stages, states[:count], strict=True)):
            given = stage.apply(state, sent, kept, at._replace(stage=place))
            who = f"{type(stage).__name__}.apply"
            sent, state, kept = parts_of(given, "updates, state, what devices keep", who)
            after.append(state)
        return sent, (*after, *states[count:]), kept

    def fold(self, sums: dict[str, Any], sent: Updates) -> None:
        """Add updates to what has come so far, block by block; `sums` is written to."""
        how: Any = self.aggregator
        if self.joint:
            if own := sorted(sent.weighed.keys() & sent.blocks.keys()):
                why = f"counts devices alike, and the algorithm weighs {own} in a way of its own"
                raise ChainError(f"{type(how).__name__} {why}; take Mean(), or another algorithm")
            sums["sent"] = sent
            return
        for name, block in sent.blocks.items():
            if name not in sums:
                sums[name] = how.begin(block.shape[1])
            sums[name] = how.add(sums[name], block, sent.weights_of(name))

    def done(self, sums: Mapping[str, Any], share: float, states: States) -> tuple[Any, States]:
        """Return each block's aggregate, and all states after it.

        Parameters
        ----------
        sums
            What `fold` has written. ``own`` among it is what rows of the server's own taught.
        share : float
            What the weights that came sum to.
        states : tuple
            Those of the stages, and the aggregator's.
        """
        how: Any = self.aggregator
        if not self.joint:
            return {name: how.done(total, share) for name, total in sums.items()}, states
        means, state = how.combine(states[-1], sums["sent"], sums.get("own", {}))
        return means, (*states[:-1], state)
