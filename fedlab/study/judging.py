"""Who judges the trials of a search: some devices, on rows that they hold out; and what it tells.

A mean over few devices is noisy, and noise that hides each device makes it noisier: both decide
what a search finds (Kuo et al., "On noisy evaluation in federated hyperparameter tuning", MLSys
2023).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedlab.core.randomness import Purpose, generator
from fedlab.core.typing import F64
from fedlab.core.validation import one_of, positive, whole_or_none
from fedlab.privacy.mechanisms import Laplace

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.federation.federation import Federation

CLOSE = "too close to tell"
_GRID = 1 << 20  # steps from 0 to 1, so that exact noise can be added
_DRAWS = 2000


class Unfit(ValueError):
    """What judges ask for is not measured, whatever the trial."""


@dataclass(frozen=True)
class Validators:
    """Devices that judge a model on rows that they hold out.

    Parameters
    ----------
    devices : int, optional
        How many are drawn for each judgement, among those that hold rows out. By default all judge.
    weights : {"rows", "uniform"}
        Whether a device counts by the rows that it holds out; under `epsilon` no device may move
        the mean by more than its share, so it takes "uniform".
    metric : str
        A measure of `Federation.validate`: ``accuracy``, or one of which less is better: ``loss``.
    same : bool
        Whether all trials are judged by the same devices, instead of each by a draw of its own.
    epsilon : float, optional
        What all judgements of a search may tell of any one device's rows held out, together; of
        accuracies only. The noise is Laplace's (see `fedlab.privacy.mechanisms`). It covers
        judgements, not training, and counts on no secrecy of who was drawn.
    simulated : bool
        Whether the noise follows from the seed, for experiments: it protects nobody.

    Examples
    --------
    >>> print(Validators(10, weights="uniform", epsilon=5.0))
    10 devices, uniform, epsilon 5 in all
    """

    devices: int | None = None
    weights: Literal["rows", "uniform"] = "rows"
    metric: str = "accuracy"
    same: bool = False
    epsilon: float | None = None
    simulated: bool = False

    def __post_init__(self) -> None:
        whole_or_none(self.devices, "devices", 1)
        one_of(self.weights, ("rows", "uniform"), "weights")
        if self.epsilon is not None:
            positive(epsilon=self.epsilon)
            if self.metric != "accuracy" or self.weights != "uniform":
                raise ValueError(
                    f"epsilon={self.epsilon} takes metric='accuracy', which has bounds, and "
                    f"weights='uniform'; {self.metric!r} and {self.weights!r} were given"
                )

    @property
    def sign(self) -> int:
        """1 where higher is better, else -1."""
        return 1 if self.metric == "accuracy" else -1

    def drawn(self, federation: Federation, seed: int = 0, **at: int) -> list[Any]:
        """Return the devices of one judgement."""
        holding = [device for device in federation.devices if device.validation_rows]
        count = self.devices or max(1, len(holding))
        if len(holding) < count:
            raise ValueError(
                f"{count} validating devices are needed, and {len(holding)} hold rows out; use "
                "Device.hold_out, or take fewer"
            )
        draw = generator(seed, Purpose.VALIDATORS, **at)
        places = draw.choice(len(holding), count, replace=False, shuffle=False)
        return [holding[place] for place in np.sort(places).tolist()]

    def asked(self, federation: Federation, seed: int, **at: int) -> tuple[F64, F64]:
        """Return what each of the devices drawn measures, and how much it counts, (n,) each."""
        frame = federation.validate(devices=self.drawn(federation, seed, **at))
        if self.metric not in (there := [*frame.columns.drop("rows")]):
            raise Unfit(f"there is no measure {self.metric!r}; there are {there}")
        values, rows = (frame[n].to_numpy(np.float64) for n in (self.metric, "rows"))
        if not np.isfinite(values).all():
            raise ValueError(f"the {self.metric} of {np.sum(~np.isfinite(values))} devices is NaN")
        return values, rows if self.weights == "rows" else np.ones(len(rows))

    def noisy(self, values: F64, part: Laplace, seed: int, **at: int) -> float:
        """Return the mean of devices' values between 0 and 1, of which each moves it by 1 / n."""
        source = generator(seed, Purpose.SIMULATED_NOISE, part=1, **at).bytes
        noise = part.noise(_GRID, 1, source if self.simulated else os.urandom)
        steps = np.rint(np.clip(values, 0, 1) * _GRID).astype(np.int64)
        return int(steps.sum() + noise[0]) / (_GRID * len(values))

    def __str__(self) -> str:
        noise = "" if self.epsilon is None else f", epsilon {self.epsilon:g} in all"
        noise += " (simulated)" if self.simulated else ""
        return f"{self.devices or 'all'} devices, {self.weights}{noise}"


def share(epsilon: float, selections: int, trials: int, kept: int) -> Laplace:
    """Return what one judgement may cost where the best `kept` of some trials are told.

    Of `selections` selections each has an equal part of epsilon. Which trials are the best k is
    told by noise on all of them of 2 k / n over that part (Qiao, Su and Zhang, "Oneshot
    differentially private top-k selection", ICML 2021); where they are fewer than 2 k, all values
    can be told for less.

    Examples
    --------
    >>> share(10.0, selections=2, trials=9, kept=3).epsilon == 5 / 6
    True
    """
    return Laplace(epsilon / (selections * min(2 * kept, trials)))


def resampled(values: F64, weights: F64, seed: int) -> F64:
    """Return means over devices drawn anew, (draws, f), of f trials judged by n devices, (n, f).

    Of one device alone nothing can be said: NaN.
    """
    count = len(values)
    draw = generator(seed, Purpose.RESAMPLING, device="validators")
    times = draw.multinomial(count, np.full(count, 1 / count), size=_DRAWS) * weights
    means = times @ values / times.sum(axis=1, keepdims=True)
    return np.asarray(means if count > 1 else np.full_like(means, np.nan))


def guessed(values: F64, devices: int, epsilons: F64, seed: int) -> F64:
    """Return what means may have been, given what was told of them with noise, (draws, f).

    Laplace's noise is as wide as was said; and n devices' mean of numbers between 0 and 1 with mean
    v has at most the variance v (1 - v) / n. Before the noise is known, all means are as likely.
    """
    draw, shape = generator(seed, Purpose.RESAMPLING, device="told"), (_DRAWS, len(values))
    means = np.clip(values - draw.laplace(0, 1 / (epsilons * devices), shape), 0, 1)
    sampled = draw.standard_normal(shape) * np.sqrt(means * (1 - means) / devices)
    return np.clip(means + sampled, 0, 1)


def finalists(
    trials: Sequence[int], values: F64, draws: F64, sign: int, level: float = 0.95
) -> pd.DataFrame:
    """Return a row a finalist, the one that was chosen first: how good, and how surely the best.

    Returns
    -------
    DataFrame
        By ``trial``: ``value``, with ``low`` and ``high`` (percentiles of `draws`, whose level is
        reached with many devices only); ``chance`` that it is the best of these, NaN of one alone;
        and ``beside the best``: "best", "worse", "better" or "too close to tell", by the interval
        of the difference on the same devices, widened for as many comparisons (Bonferroni).
    """
    import pandas as pd

    top = sign * draws == (sign * draws).max(axis=1, keepdims=True)
    chance = (top / np.maximum(top.sum(axis=1, keepdims=True), 1)).mean(axis=0)
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
    apart, tail = sign * (draws - draws[:, :1]), tail / max(1, len(trials) - 1)
    below, above = np.quantile(apart, [tail, 1 - tail], axis=0)
    columns = {"value": values, "low": low, "high": high}
    columns["chance"] = np.where(np.isfinite(low) & (len(trials) > 1), chance, np.nan)
    told = pd.DataFrame(columns, pd.Index(list(trials), name="trial"))
    told["beside the best"] = np.select([above < 0, below > 0], ["worse", "better"], CLOSE)
    told.iloc[0, -1] = "best"
    return told
