"""The leak meter: defences against attacks, in one table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedlab.core.randomness import Purpose, generator
from fedlab.core.threads import one_blas_thread
from fedlab.core.typing import F64, U64
from fedlab.core.validation import require, whole_number
from fedlab.index.ingest import as_vectors
from fedlab.index.vectorindex import VectorIndex
from fedlab.leaks.attacks import (
    Attack,
    AttackResult,
    KnownPairs,
    Linkage,
    Membership,
    Trilateration,
)
from fedlab.leaks.defences import (
    Counts,
    Defence,
    Noise,
    Quantised,
    Rotation,
    ScaleAndPerturb,
    Shares,
    Undefended,
)
from fedlab.leaks.scene import SPLIT, Scene

if TYPE_CHECKING:
    import pandas as pd

from fedlab.metrics.retrieval import recall

#: What is compared unless something else is asked for.
DEFENCES: tuple[Defence, ...] = (
    Undefended(),
    Quantised("i8"),
    Quantised("b1"),
    Noise(0.5),
    Noise(1.0),
    ScaleAndPerturb(0.25),
    ScaleAndPerturb(1.0),
    ScaleAndPerturb(4.0),
    ScaleAndPerturb(8.0),
    Rotation(),
    Rotation(0.5),
    Shares(),
    Counts(1.0),
)
ATTACKS: tuple[Attack, ...] = (
    Linkage(),
    KnownPairs(),
    Trilateration(),
    Trilateration(top=10),
    Membership(),
)

_QUERIES = 200
_LEAST = 20


def measure_leaks(
    vectors: ArrayLike,
    defences: Sequence[Defence] = DEFENCES,
    attacks: Sequence[Attack] = ATTACKS,
    *,
    k: int = 10,
    queries: ArrayLike | None = None,
    seeds: Sequence[int] = (0,),
) -> pd.DataFrame:
    """Measure what each defence keeps of a search, and what attacks get out of it.

    Half of the vectors are a device's rows; the attacker has the other half, as vectors of the same
    kind. All are scaled to length one first, so that cosine, inner product and Euclidean search
    agree, and strengths of noise mean the same on all data.

    Parameters
    ----------
    vectors : (n, d) array
        None of length zero.
    defences : sequence of Defence
    attacks : sequence of Attack
    k : int
        Neighbours of the recall.
    queries : (q, d) array, optional
        Honest ones. By default 200 vectors at most, a tenth of all, drawn and left out.
    seeds : sequence of int
        Each splits the vectors anew, and draws new secrets and noise.

    Returns
    -------
    DataFrame
        Tidy: ``protection``, ``setting``, ``kind``, ``attacker`` ("holder", "asker"; "" for the
        recall), ``metric``, ``seed``, ``value``, ``chance``. ``recall@k`` is the share of the true
        k nearest that a search on protected vectors finds.

    Raises
    ------
    ValueError
        If there are too few vectors, or one has length zero; without a defence or a seed.
    TypeError
        If something else was given than lists of defences, attacks and seeds.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(400, 8))
    >>> frame = measure_leaks(rows, [Undefended(), Shares()], [Linkage()])
    >>> frame[frame.metric == "linkage"][["protection", "value", "chance"]].round(3)
      protection  value  chance
    1       none    1.0   0.003
    4     shares    0.0   0.003
    """
    import pandas as pd

    everything = _units(vectors, "vectors")
    asked = None if queries is None else _units(queries, "queries", everything.shape[1])
    whole_number(k, "k", 1, max(1, len(everything) // 4))
    defences = _listed(defences, "defences", "[Undefended()]", least=1)
    attacks = _listed(attacks, "attacks", "[Linkage()]")
    for defence in defences:
        require(defence, "a defence", "name", "setting", "kind", "searchable", "protect")
    for attack in attacks:
        require(attack, "an attack", "needs_rows", "measure")
    seeds = [
        whole_number(seed, "seeds", 0) for seed in _listed(seeds, "seeds", "range(3)", least=1)
    ]
    rows = []
    for seed in seeds:
        inside, outside, honest = _split(everything, asked, seed)
        for attack in attacks:  # now, and not when others have measured for hours
            if isinstance(attack, KnownPairs) and any(one.searchable for one in defences):
                attack.check(len(inside))
        for defence in defences:
            about = (defence.name, defence.setting, defence.kind)
            scene = Scene(defence, inside, outside, honest, k, seed)
            with one_blas_thread():  # so that the number of processors changes no bit
                measured = list(_measured(scene, attacks))
            rows += [(*about, m.attacker, m.metric, seed, m.value, m.chance) for m in measured]
    columns = ["protection", "setting", "kind", "attacker", "metric", "seed", "value", "chance"]
    return pd.DataFrame(rows, columns=columns)


def _listed(values: Any, what: str, example: str, least: int = 0) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{what} is {values!r}; give a list, such as {what}={example}")
    listed = list(values)
    if len(listed) < least:
        raise ValueError(f"{what} is empty; give one at least, such as {what}={example}")
    return listed


def _units(vectors: ArrayLike, what: str, dimensions: int | None = None) -> F64:
    array = np.asarray(vectors)
    if dimensions is None:
        if array.ndim != 2 or len(array) < _LEAST or array.shape[1] < 2:
            raise ValueError(
                f"{what}: an array of shape {array.shape} was given; needed are at least {_LEAST} "
                "rows of 2 numbers or more"
            )
        dimensions = array.shape[1]
    rows = as_vectors(array, dimensions, what).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(
            f"{what}: {int((lengths == 0).sum())} rows have length zero; leave them out"
        )
    return np.asarray(rows / lengths)


def _split(vectors: F64, queries: F64 | None, seed: int) -> tuple[F64, F64, F64]:
    order = generator(seed, Purpose.ATTACK, part=SPLIT).permutation(len(vectors))
    drawn = min(_QUERIES, len(order) // 10) if queries is None else 0
    honest = vectors[order[:drawn]] if queries is None else queries
    inside, outside = np.array_split(vectors[order[drawn:]], 2)
    return inside, outside, honest


def _measured(scene: Scene, attacks: Sequence[Attack]) -> Iterator[AttackResult]:
    searchable = scene.defence.searchable
    if searchable:
        yield AttackResult("", f"recall@{scene.k}", _recall(scene), scene.k / len(scene.inside))
    for attack in attacks:
        if searchable or not attack.needs_rows:
            yield from attack.measure(scene)


def _recall(scene: Scene) -> float:
    truth = _nearest(scene.inside, scene.queries, scene.k)
    found = _nearest(scene.seen.used, scene.asked.used, scene.k)
    return recall(found, truth)


def _nearest(rows: F64, queries: F64, k: int) -> U64:
    index = VectorIndex(rows.shape[1], metric="l2sq")
    index.add(rows)
    return index.search(queries, k, exact=True).keys


def leak_summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds, with Student's 95% interval where there are several.

    Parameters
    ----------
    frame : DataFrame
        From `measure_leaks`.

    Returns
    -------
    DataFrame
        ``protection``, ``setting``, ``kind``, ``attacker``, ``metric``, ``value``, ``low``,
        ``high`` (NaN with one seed), ``chance``.
    """
    import pandas as pd

    from fedlab.metrics.intervals import mean_interval

    by = ["protection", "setting", "kind", "attacker", "metric"]
    rows = []
    for names, group in frame.groupby(by, sort=False):
        low = high = np.nan
        if len(group) > 1:
            interval = mean_interval(group.value)
            low, high = interval.low, interval.high
        rows.append((*names, group.value.mean(), low, high, group.chance.mean()))
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high", "chance"])


def leak_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each defence, a column for each measure (with its attacker), of means.

    Parameters
    ----------
    frame : DataFrame
        From `measure_leaks`.

    Returns
    -------
    DataFrame
        Indexed by protection and setting, and a last row ``chance``; NaN where a measure does not
        apply.
    """
    import pandas as pd

    who = frame.attacker.where(frame.attacker == "", " (" + frame.attacker + ")")
    named = frame.assign(measure=frame.metric + who)
    order = list(dict.fromkeys(named.measure))
    rows = list(dict.fromkeys(zip(named.protection, named.setting, strict=True)))
    table = named.pivot_table("value", ["protection", "setting"], "measure", sort=False)
    chance = named.groupby("measure").chance.mean()[order]
    last = pd.DataFrame(
        [chance], index=pd.MultiIndex.from_tuples([("chance", "")], names=table.index.names)
    )
    return pd.concat([table.loc[rows, order], last])
