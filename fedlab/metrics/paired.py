"""Contestants on the same seeds: what these seeds can tell, and what they can't."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.validation import known, proportion, whole_number
from fedlab.metrics.evenness import Better

if TYPE_CHECKING:
    import pandas as pd

UNDECIDED = "these seeds can't tell"
_MOST_SEEDS = 10_000


def compared(
    results: Mapping[str, ArrayLike] | pd.DataFrame,
    against: str,
    *,
    level: float = 0.95,
    better: Better = "higher",
    family: int | None = None,
    worth: float | None = None,
) -> pd.DataFrame:
    """Compare contestants with one of them, seed by seed, and name none better without grounds.

    Differences are taken on the same seed, and Student's intervals for their means are widened by
    Bonferroni's correction: of m comparisons, each interval has the level 1 - (1 - level) / m. So
    all of them hold at once with a probability of at least `level`, for seeds that are independent
    and differences that are about normal, however the contestants depend on each other; and a
    verdict is never wrong in more than 1 - level of all such comparisons.

    Parameters
    ----------
    results : mapping of contestant to (seeds,) values, or DataFrame
        A column for each contestant and a row for each seed, the same for all.
    against : str
        The contestant that the others are compared with.
    level : float
        The probability with which all intervals hold.
    better : {"higher", "lower"}
        Whether an accuracy or a loss is compared.
    family : int, optional
        Comparisons that are made in all, m, where there are more than in this call: other measures,
        other data sets.
    worth : float, optional
        The smallest difference that would matter, for `seeds needed`. By default the difference
        that was seen: a rough guess, since it is as uncertain as its interval is wide.

    Returns
    -------
    DataFrame
        A row for each other contestant: ``difference`` (its mean minus that of `against`), ``low``,
        ``high``, ``verdict`` ("better", "worse" or "these seeds can't tell") and ``seeds needed``
        (to find such a difference with a probability of .8, at the spread seen; inf above 10,000).
        Where all differences are one number, seeds tell nothing of chance: bounds are NaN.

    Raises
    ------
    ValueError
        If there are fewer than two seeds or contestants, a value is missing, or no contestant has
        the name `against`.

    Source: Dunn, "Multiple comparisons among means", JASA 56, 1961; power by the noncentral t
    distribution, as in Cohen, "Statistical power analysis for the behavioral sciences", 1988.

    Examples
    --------
    >>> fedavg, ditto, apfl = [0.70, 0.72, 0.69], [0.81, 0.84, 0.80], [0.7, 0.8, 0.6]
    >>> told = compared({"fedavg": fedavg, "ditto": ditto, "apfl": apfl}, against="fedavg")
    >>> told.verdict.to_dict()
    {'ditto': 'better', 'apfl': "these seeds can't tell"}
    """
    import pandas as pd
    from scipy import special

    proportion(level=level)
    frame = pd.DataFrame(results).astype(np.float64)
    if against not in frame:
        raise ValueError(f"no contestant is called {against!r}; there are {list(frame)}")
    missing = frame.size - int(np.isfinite(frame.to_numpy()).sum())
    if min(frame.shape) < 2 or missing:
        raise ValueError(
            f"{frame.shape[1]} contestants with {len(frame)} seeds were given, and {missing} "
            "values are missing or not finite; two of both are needed, each with all seeds"
        )
    up = known(better, ("higher", "lower"), "way to be better") == "higher"
    others = frame.drop(columns=against)
    tests = whole_number(family or others.shape[1], "family", others.shape[1])
    alone = 1 - (1 - level) / tests
    apart = others.to_numpy() - frame[[against]].to_numpy()
    mean, spread = apart.mean(axis=0), apart.std(axis=0, ddof=1)
    spread[np.isclose(apart, apart[0], rtol=1e-9, atol=0).all(axis=0)] = np.nan
    half = special.stdtrit(len(apart) - 1, (1 + alone) / 2) * spread / np.sqrt(len(apart))
    above, below = ("better", "worse") if up else ("worse", "better")
    told = pd.DataFrame({"difference": mean, "low": mean - half, "high": mean + half})
    told["verdict"] = np.select([mean > half, mean < -half], [above, below], UNDECIDED)
    effects = np.abs(mean if worth is None else worth) / spread
    told["seeds needed"] = [seeds_needed(effect, alone) for effect in effects]
    return told.set_axis(others.columns)


def seeds_needed(effect: float, level: float = 0.95, power: float = 0.8) -> float:
    """Return how many paired seeds find a difference, by Student's two-sided test.

    Parameters
    ----------
    effect : float
        The mean difference over the standard deviation of differences.
    level, power : float
        1 minus the probability to find what is not there, and that to find what is.

    Returns
    -------
    float
        NaN if the effect is; inf above 10,000.

    Examples
    --------
    >>> seeds_needed(0.5)
    34.0
    """
    if np.isnan(effect):
        return np.nan
    from scipy import special

    def found(seeds: int) -> float:
        edge = special.stdtrit(seeds - 1, (1 + level) / 2)
        return float(1 - special.nctdtr(seeds - 1, abs(effect) * np.sqrt(seeds), edge))

    seeds = 2 + bisect_left(range(2, _MOST_SEEDS + 1), power, key=found)
    return float(seeds) if seeds <= _MOST_SEEDS else np.inf
