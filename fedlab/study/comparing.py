"""What the runs of a study say: contestants on equal terms, the best, trade-offs, effects.

All of it reads the table that `finals` makes of a study's frame: a row a run.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlab.core.validation import known, one_of
from fedlab.metrics.evenness import Better
from fedlab.metrics.intervals import Interval, mean_interval
from fedlab.metrics.paired import UNDECIDED, compared

if TYPE_CHECKING:
    import pandas as pd

_ABOUT, _MEASURED = ("run", "status", "error"), ("round", "who", "metric", "value")
#: What a history tells of a round by itself, so that a run's value is the sum over rounds.
_AMOUNT = re.compile(r"bytes|seconds|joules|^(dropped|late|surplus|stale)$")
#: A parameter with more numbers than this is told in quarters of its runs.
_MANY = 12


def finals(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a run: what was given, and what came out.

    Parameters
    ----------
    frame : DataFrame
        Of `load_runs`: a row a measurement.

    Returns
    -------
    DataFrame
        ``run``, ``status``, ``error``, the parameters ("None" where it is that), and what else
        tells measurements apart: a run that kept several histories has a row for each. Then a
        column for each metric of the server and of the whole run. Of the server's metrics it is
        the last value, but for what each round spends (bytes, simulated seconds, joules, devices
        that were late or dropped out): that is summed, and ``bytes`` are those up and down. What a
        run recorded of itself goes before a metric of the same name; a metric that is called like a
        parameter has ``_measured`` behind its name.

    Examples
    --------
    >>> import pandas as pd
    >>> rows = [(1, "server", "accuracy", 0.5), (2, "server", "accuracy", 0.7)]
    >>> rows += [(1, "server", "bytes_up", 8.0), (2, "server", "bytes_up", 8.0)]
    >>> measured = pd.DataFrame(rows, columns=["round", "who", "metric", "value"])
    >>> about = pd.DataFrame({"run": "r1", "status": "done", "error": None, "seed": [0] * 4})
    >>> table = finals(pd.concat([about, measured], axis=1))
    >>> table[["seed", "accuracy", "bytes_up"]].to_dict("records")
    [{'seed': 0, 'accuracy': 0.7, 'bytes_up': 16.0}]
    """
    import pandas as pd

    names = [str(name) for name in frame if name not in (*_ABOUT, *_MEASURED)]
    further = [name for name in names if list(frame).index(name) > list(frame).index("value")]
    keys, done = ["run", *further], frame[frame.status == "done"]
    rows, whole = done[done.who == "server"], done[done.who == "run"]
    table = pd.concat([rows, frame[~frame.run.isin(rows.run)]]).drop_duplicates(keys)
    table = table[[*_ABOUT, *names]].sort_index(ignore_index=True)
    table = table.assign(**{name: _told(table[name]) for name in names})
    rows = rows.assign(**{name: _told(rows[name]) for name in further})
    spent = rows.metric.isin([m for m in rows.metric.unique() if _AMOUNT.search(str(m))])
    last = rows[~spent].sort_values("round", kind="stable")
    last = last.drop_duplicates([*keys, "metric"], keep="last")
    told = pd.concat([_wide(last, keys), _wide(rows[spent], keys)], axis=1)
    if {"bytes_up", "bytes_down"} <= set(told):
        told["bytes"] = told.bytes_up + told.bytes_down
    recorded = table[keys].join(_wide(whole, ["run"]), on="run").drop(columns=keys)
    metrics = recorded.combine_first(table[keys].join(told, on=keys).drop(columns=keys))
    table = table.join(metrics.rename(columns={n: f"{n}_measured" for n in table}))
    table.attrs["parameters"] = names
    return table


def _told(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a parameter's values with None as a text, which can be grouped and sorted by."""
    return column.astype(object).where(column.notna(), "None").infer_objects()


def _wide(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return a column a metric; where there are several values, their sum."""
    cells = rows.groupby([*keys, "metric"], observed=True, sort=False).value.sum(min_count=1)
    return cells.reset_index().pivot_table("value", keys, "metric", observed=True)


def compare(
    table: pd.DataFrame,
    by: str,
    metric: str,
    against: Any = None,
    *,
    pair: str | Sequence[str] = "seed",
    spent: pd.DataFrame | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Compare contestants on the same seeds, with all else equal, and say what can't be told.

    A contestant's value of a seed is its mean over the settings of all other parameters: those at
    which every contestant has a run that is done. Seeds are what the interval counts, however many
    settings there are.

    Parameters
    ----------
    table : DataFrame
        Of `finals`.
    by : str
        The parameter whose values are the contestants.
    metric : str
    against : object, optional
        The contestant that the others are compared with; by default the first by number or name.
    pair : str or list of str
        What makes one observation: a seed, or a combination of several columns.
    spent : DataFrame, optional
        All runs that contestants took, those of tuning too, where `table` has a part of them.
    **settings
        Of `fedlab.metrics.compared`: ``better``, ``level``, ``family``, ``worth``.

    Returns
    -------
    DataFrame
        A row a contestant: its ``mean``; ``difference``, ``low``, ``high``, ``verdict`` and ``seeds
        needed`` as `fedlab.metrics.compared` has them; the ``seeds`` used; and ``trials``: all its
        runs, failed ones included.

    Warns
    -----
    UserWarning
        When the seeds are too few to tell, contestants took unequal numbers of runs, or runs were
        left out since they have no counterpart.

    Raises
    ------
    ValueError
        If a column is missing, a contestant has two runs of one setting and seed, or no two
        observations are complete.
    """
    pairs = [pair] if isinstance(pair, str) else list(pair)
    for name in (by, metric, *pairs):
        one_of(name, table.columns, "a column")
    held = [name for name in _varied(table) if name not in (by, *pairs)]
    done, alike = table[_usable(table, [metric])], [*pairs, *held]
    if done.duplicated([by, *alike]).any():
        raise ValueError(f"{by} has several runs of equal {alike}; keep one, or name what differs")
    contestants = sorted(table[by].unique(), key=lambda name: (isinstance(name, str), name))
    wide = done.pivot_table(metric, alike, by).reindex(columns=contestants)
    whole, asked = wide.dropna(), table.set_index(alike).index.unique()
    if len(lost := asked.difference(whole.index, sort=False)):
        some = ", ".join(map(str, lost[:5])) + ", ..." * (len(lost) > 5)
        _warn(f"{len(lost)} of {len(asked)} {alike} are left out, not all done there: {some}")
    values = whole.groupby(level=list(range(len(pairs)))).mean()
    if min(values.shape) < 2:
        raise ValueError(
            f"of {by}, done are {wide.count().to_dict()} runs; at equal {held} they share "
            f"{len(values)} {pairs}: leave out who failed, and drop what one contestant alone has"
        )
    against = values.columns[0] if against is None else against
    told = compared(values, against, **settings)
    told = told.reindex([against, *told.index]).rename_axis(by)
    told.loc[against, "verdict"] = "the reference"
    told.insert(0, "mean", values.mean())
    trials = (table if spent is None else spent)[by].value_counts()
    told = told.assign(seeds=len(values), trials=trials.reindex(told.index))
    if len(set(told.trials)) > 1:
        took = ", ".join(f"{name} {count}" for name, count in told.trials.items())
        _warn(f"contestants took unequal numbers of runs: {took}")
    if len(needed := told["seeds needed"][told.verdict == UNDECIDED]):
        wanted = ", ".join(f"{count:g} for {name}" for name, count in needed.items())
        _warn(f"{len(values)} seeds are too few to tell by {metric}; needed: {wanted}")
    return told


def candidates(table: pd.DataFrame, metrics: Sequence[str], *, over: str = "seed") -> pd.DataFrame:
    """Return the means of metrics over seeds: a row for each setting of all other parameters.

    Settings without a run that is done on each of the seeds are left out, with a warning: a mean
    over fewer seeds is no fair one.

    Returns
    -------
    DataFrame
        The parameters that vary, the metrics, and ``seeds``.
    """
    for metric in metrics:
        one_of(metric, table.columns, "metric")
    names: Any = [name for name in _varied(table) if name != over] or (lambda _: 0)
    tried, done = (t.groupby(names, sort=False) for t in (table, table[_usable(table, metrics)]))
    means, asked = done[[*metrics]].mean(), table[over].nunique() if over in table else 1
    means["seeds"] = done[over].nunique() if over in table else 1
    means = means[means.seeds == asked]
    if lost := tried.ngroups - len(means):
        _warn(f"{lost} of {tried.ngroups} settings are left out: they lack some of {asked} seeds")
    return means.reset_index(drop=callable(names))


def best(
    table: pd.DataFrame, metric: str, better: Better = "higher", *, over: str = "seed"
) -> pd.Series[Any]:
    """Return the setting with the best mean over seeds; one lucky seed counts for no more.

    Returns
    -------
    Series
        Its parameters, the mean of `metric`, ``seeds``, the number of ``candidates``, and a
        ``note``: the best of many looks better than it is, since the seeds that chose it flatter
        it. Run it on others to say how good it is.

    Raises
    ------
    ValueError
        If no setting has a run that is done on each seed.
    """
    means = pareto(table, {metric: better}, over=over, beaten=True)
    if means.empty:
        raise ValueError(f"no setting has a run with {metric} on each seed; there is no best one")
    found = means[means.front].drop(columns="front").astype(object).iloc[0]
    found["candidates"] = len(means)
    found["note"] = f"the best of {len(means)} means of {found.seeds} seeds: likely worse on others"
    return found


def pareto(
    table: pd.DataFrame, better: Mapping[str, Better], *, over: str = "seed", beaten: bool = False
) -> pd.DataFrame:
    """Return the settings that no other one beats: at least as good in all, better in one.

    Parameters
    ----------
    table : DataFrame
        Of `finals`.
    better : mapping of metric to {"higher", "lower"}
        What counts, such as ``{"accuracy": "higher", "bytes": "lower"}``.
    over : str
        Means are taken over it.
    beaten : bool
        Whether the others are returned as well; ``front`` tells them apart.

    Returns
    -------
    DataFrame
        As `candidates`; settings with equal means all stay.
    """
    ways = [known(way, ("higher", "lower"), "way to be better") for way in better.values()]
    means = candidates(table, list(better), over=over)
    points = means[list(better)].to_numpy() * [1 if way == "higher" else -1 for way in ways]
    worse = [((points >= p).all(axis=1) & (points > p).any(axis=1)).any() for p in points]
    means["front"] = ~np.array(worse, np.bool_)
    return means if beaten else means[means.front].drop(columns="front")


def effects(
    table: pd.DataFrame, metric: str, *, over: str = "seed", level: float = 0.95
) -> pd.DataFrame:
    """Return what each parameter that varies does to a metric: its mean by value, and its share.

    Shares are those of main effects in the variance over runs, seeds among them; what they lack of
    one is interactions and chance. They are the variances of an additive model's terms, fitted by
    least squares. On a full grid these are exactly the main effects of functional ANOVA (Hutter,
    Hoos and Leyton-Brown, "An efficient approach for assessing hyperparameter importance", ICML
    2014, equation 5), there taken of a forest's predictions, here of the runs themselves.

    Any other design gets a warning: means by value are of the runs there are, whatever else those
    differ in, and shares are approximate. A parameter with more than 12 numbers counts by quarters
    of its runs, and with n runs chance alone gives k values a share of about (k - 1) / (n - 1).

    Parameters
    ----------
    table : DataFrame
        Of `finals`.
    metric : str
    over : str
        What makes runs independent.
    level : float
        Of Student's interval for a mean: over seeds, each the mean of its runs; over runs where
        there is one seed. Whether two values differ is told by `compare`, from paired seeds.

    Returns
    -------
    DataFrame
        ``parameter``, ``value``, ``mean``, ``low``, ``high``, ``runs``, ``share``.
    """
    import pandas as pd

    one_of(metric, table.columns, "metric")
    done = table[_usable(table, [metric])]
    half, found = len(done) / 2, done[metric].to_numpy(np.float64)
    levels = {n: _levels(done[n], half if n == over else min(_MANY, half)) for n in _varied(done)}
    if not levels:
        raise ValueError(f"of {len(done)} runs with {metric}, no parameter varies; nothing is told")
    cells = int(np.prod([len(each.categories) for each in levels.values()]))
    if not cells == len(pd.DataFrame(levels).drop_duplicates()) == len(done):
        told = f"{len(done)} runs are no full grid of {', '.join(levels)}, which has {cells} cells:"
        _warn(f"{told} means mix with what else runs differ in, and shares are approximate")
    hot = [each.codes[:, None] == np.arange(len(each.categories)) for each in levels.values()]
    weights = np.linalg.lstsq(np.hstack(hot).astype(np.float64), found, rcond=None)[0]
    units = done[over] if over in levels else done.run
    rows, parts = [], np.split(weights, np.cumsum([places.shape[1] for places in hot])[:-1])
    for name, places, part in zip(levels, hot, parts, strict=True):
        share = (places @ part).var() / (found.var() or np.nan)
        for here in places.T:
            means = done[metric][here].groupby(units[here]).mean()
            ends = mean_interval(means, level) if len(means) > 1 else Interval(0, np.nan, np.nan)
            rows.append((name, found[here].mean(), ends.low, ends.high, here.sum(), share))
    frame = pd.DataFrame(rows, columns=["parameter", "mean", "low", "high", "runs", "share"])
    values = [value for each in levels.values() for value in each.categories]
    frame.insert(1, "value", pd.Series(values, dtype=object))  # a whole number stays one
    return frame


def _levels(column: pd.Series[Any], most: float) -> Any:
    """Return a parameter's values in order; of many numbers, quarters of the runs."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.isna().any():
        return pd.Categorical(column.map(str))
    if len(numbers.unique()) > most:
        cut = pd.qcut(numbers, 4, duplicates="drop").cat
        return cut.rename_categories(list(map(str, cut.categories))).array
    return pd.Categorical(numbers)


def _usable(table: pd.DataFrame, metrics: Sequence[str]) -> pd.Series[bool]:
    """Tell which runs ended well, with all metrics, and were not ended early by a pruner."""
    usable = (table.status == "done") & table[[*metrics]].map(np.isfinite).all(axis=1)
    pruned = table.get("pruned")
    if pruned is not None and pruned.notna().any():
        _warn(f"{pruned.notna().sum()} of {len(table)} runs were pruned, and are left out")
        usable &= pruned.isna()
    return usable


def _varied(table: pd.DataFrame) -> list[str]:
    if "parameters" not in table.attrs:
        raise ValueError("the table doesn't say which columns are parameters; make it by finals()")
    there = [name for name in table.attrs["parameters"] if name in table]
    return [name for name in there if len(table[name].unique()) > 1]


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=3)
