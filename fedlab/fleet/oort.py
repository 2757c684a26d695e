"""Oort: devices that the model has much to learn from, and that are quick about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlab.core.typing import F64, I64, Array, Places
from fedlab.core.validation import not_negative, positive, share_of_one, whole_number, whole_or_none
from fedlab.device.device import Device
from fedlab.fleet.view import Cohort, Inquiry, State, View
from fedlab.models.base import Model, losses_of

_TINY = 1e-300


@dataclass(frozen=True)
class SquaredLoss:
    """The mean of the squared losses on a device's rows: a by-product of its first pass."""

    sends_model: ClassVar[bool] = False

    def answer(self, device: Device, model: Model, parameters: Array) -> float:
        return float(np.square(losses_of(model, parameters, *device.training())).mean())

    def operations(self, rows: I64, model: Model) -> F64:
        return np.zeros(len(rows))


@dataclass(frozen=True)
class Oort:
    """Exploit devices of high utility, and explore others, the quicker ones first.

    The utility of a device is its rows times the root of their mean squared loss, as it told when
    it last took part; times (T / t)^alpha if its t seconds were more than T; plus what grows with
    the rounds since. T rises by `step` where the last `window` rounds brought less than those
    before. It takes time by the population.

    Parameters
    ----------
    deadline : float
        T at first, in simulated seconds.
    step : float, optional
        By how much T rises; by default as much as `deadline`.
    alpha : float
        How much slow devices lose; 0 asks for utility alone.
    explore, decay, least : float
        Share of the cohort that has never taken part: `explore` at first, times `decay` a round,
        down to `least`.
    window : int
        Rounds.
    most : int, optional
        A device that took part so often is not exploited any more: its utility may be noise.
    cutoff : float
        Exploited are devices drawn by utility among those that reach this share of the last one's
        that would be taken by rank.

    Source: Lai et al., "Oort: efficient federated learning via guided participant selection", OSDI
    2021, algorithm 1 and equation 2.
    """

    deadline: float
    step: float | None = None
    alpha: float = 2.0
    explore: float = 0.9
    decay: float = 0.98
    least: float = 0.2
    window: int = 20
    most: int | None = None
    cutoff: float = 0.95
    reads: ClassVar[tuple[str, ...]] = ("loss", "rows")

    @property
    def asks(self) -> Inquiry:
        return SquaredLoss()

    def __post_init__(self) -> None:
        step = self.deadline if self.step is None else self.step
        positive(deadline=self.deadline, step=step)
        not_negative(alpha=self.alpha)
        share_of_one(explore=self.explore, decay=self.decay, least=self.least, cutoff=self.cutoff)
        whole_number(self.window, "window", 1)
        whole_or_none(self.most, "most", 1)

    def init(self, devices: int, size: int) -> State:
        columns = {name: np.empty(0) for name in ("utility", "seconds", "last", "often")}
        rest = {"deadline": float(self.deadline), "gained": np.empty(0), "done": 0}
        return {"places": np.empty(0, np.int64), **columns, **rest}

    def utility(self, utility: F64, seconds: F64, last: F64, round: int, deadline: float) -> F64:
        """Return what devices are worth now, (k,).

        Parameters
        ----------
        utility : (k,) array
            Rows times the root of the mean squared loss.
        seconds : (k,) array
            What they took.
        last : (k,) array
            The rounds in which they last took part.
        round : int
        deadline : float
            T.

        Examples
        --------
        >>> two = np.array([8.0, 8.0])
        >>> last = np.array([10.0, 10.0])
        >>> Oort(deadline=1.0).utility(two, np.array([1.0, 2.0]), last, 10, 1.0).round(3)
        array([8.152, 2.152])
        """
        capped = np.minimum(utility, np.quantile(utility, 0.95)) if len(utility) else utility
        slow = np.where(seconds > deadline, (deadline / seconds) ** self.alpha, 1.0)
        return np.asarray(capped * slow + np.sqrt(0.1 * np.log(round) / last))

    def choose(self, state: State, view: View) -> Cohort:
        there = view.reachable
        known = np.isin(there, state["places"])
        seen, new = there[known], there[~known]
        at = np.searchsorted(state["places"], seen)
        if self.most is not None:
            few = state["often"][at] < self.most
            at, seen = at[few], seen[few]
        utility, seconds, last = (state[name][at] for name in ("utility", "seconds", "last"))
        worth = self.utility(utility, seconds, last, view.round, state["deadline"])
        share = max(self.least, self.explore * self.decay ** state["done"])
        fresh = min(max(round(share * view.size), view.size - len(seen)), len(new))
        best = self._exploited(view, worth, view.size - fresh)
        explored = view.sample(new, fresh, 1 / view.expected_seconds(new))
        reason = np.repeat(["high utility", "explored, by its speed"], [len(best), len(explored)])
        told = np.append(worth[best], np.full(len(explored), np.nan))
        places = np.append(seen[best], explored)
        return Cohort(places, state, reason, numbers={"utility": told})

    def _exploited(self, view: View, worth: F64, count: int) -> Places:
        """Draw by utility among those that come close to the last one by rank; where they stand."""
        if not 0 < count < len(worth):
            return np.arange(len(worth))[: max(count, 0)]
        enough = np.flatnonzero(worth >= self.cutoff * np.sort(worth)[-count])
        times = view.draw(2).exponential(size=len(worth))[enough] / np.maximum(worth[enough], _TINY)
        return enough[np.argsort(times, kind="stable")[:count]]

    def observe(self, state: State, view: View, told: Mapping[str, Array]) -> State:
        places = told["places"]
        squares = view.ask(self.asks, places)[:, 0]
        utility = told["rows"] * np.sqrt(squares)
        good = np.isfinite(utility)
        places, utility = places[good].astype(np.int64), utility[good]
        both = np.union1d(state["places"], places)
        old, new = np.searchsorted(both, state["places"]), np.searchsorted(both, places)
        news = {"utility": utility, "seconds": told["seconds"][good], "last": float(view.round)}
        columns = {}
        for name in ("utility", "seconds", "last", "often"):
            column = columns[name] = np.zeros(len(both))
            column[old] = state[name]
            column[new] = column[new] + 1 if name == "often" else news[name]
        gained = np.append(state["gained"], utility.sum())
        deadline, w = state["deadline"], self.window
        if len(gained) == 2 * w:
            if gained[:w].sum() > gained[w:].sum():
                deadline += self.deadline if self.step is None else self.step
            gained = gained[w:]
        done = state["done"] + 1
        return {"places": both, **columns, "deadline": deadline, "gained": gained, "done": done}
