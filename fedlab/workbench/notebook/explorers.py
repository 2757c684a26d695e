"""Looks at a split before anything is computed, and at one device after that."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib import pyplot
from numpy.typing import ArrayLike

from fedlab import data
from fedlab.core.randomness import Purpose, generator
from fedlab.core.validation import one_of
from fedlab.data.partitions.label_shift import MOVES
from fedlab.federation import Federation
from fedlab.leaks.scene import cosines
from fedlab.training import train_cohort
from fedlab.workbench.figures.learning import plot_splits
from fedlab.workbench.notebook import widgets

if TYPE_CHECKING:
    from ipywidgets import VBox

#: Functions of `fedlab.data`, each of labels, devices, alpha, k and seed.
SPLITS: dict[str, Any] = {
    "dirichlet": lambda y, m, alpha, k, seed: data.dirichlet(y, m, alpha, seed),
    "by_classes": lambda y, m, alpha, k, seed: data.by_classes(y, m, k, seed),
    "shards": lambda y, m, alpha, k, seed: data.shards(y, m, seed, shards_each=k),
    "by_quantity": lambda y, m, alpha, k, seed: data.by_quantity(len(y), m, alpha, seed),
    "iid": lambda y, m, alpha, k, seed: data.iid(len(y), m, seed),
}


def split_explorer(
    labels: ArrayLike, devices: int, *, kind: str = "dirichlet", alpha: float, k: int = 2, seed: int
) -> VBox | None:
    """Show a split of rows over devices, with controls for its kind and strength, and its measures.

    In a batch run it leaves the figure and the measures of the split that the arguments name.

    Parameters
    ----------
    labels : (n,) classes
    devices : int
        Where its slider begins.
    kind : {"dirichlet", "by_classes", "shards", "by_quantity", "iid"}
        A function of `fedlab.data`: see there for what it deals to whom, and its source.
    alpha : float
        Concentration of "dirichlet" and "by_quantity", 0.01 ... 100.
    k : int
        Classes of a device in "by_classes", shards of a device in "shards".
    seed : int

    Returns
    -------
    VBox or None
        A cell that ends with it shows it; None in a batch run.
    """
    one_of(kind, SPLITS, "kind")
    return widgets.controlled(
        partial(explored, labels, seed=seed),
        ("Dropdown", kind, {"options": [*SPLITS], "description": "split"}),
        ("IntSlider", devices, {"min": 1, "max": max(100, devices), "description": "devices"}),
        ("FloatLogSlider", alpha, {"min": -2, "max": 2, "description": "α"}),
        ("IntSlider", k, {"min": 1, "max": max(k, len(np.unique(labels))), "description": "k"}),
    )


def explored(
    labels: ArrayLike, kind: str, devices: int, alpha: float, k: int, seed: int
) -> tuple[Any, ...]:
    """Return a split's figure, what to expect of it, and its measures with what they say.

    Examples
    --------
    >>> _, _, measures = explored(np.repeat([0, 1], 50), "shards", 10, 0.5, 1, seed=0)
    >>> round(measures.value["label distance"], 9)
    np.float64(0.5)
    """
    y = np.asarray(labels)
    split = SPLITS[kind](y, devices, alpha, k, seed)
    counts = data.label_table(split, y)
    figure, [ax], _ = plot_splits({"": counts})
    figure.set_size_inches(7.0, 4.4)
    bars = ax.inset_axes((0, 1.05, 1, 0.4), sharex=ax)
    bars.bar(np.arange(len(counts)) + 0.5, counts.sum(axis=1), width=0.8)
    bars.set_ylabel("rows")
    bars.tick_params(labelbottom=False)

    sizes, dealt = np.array(split.sizes), generator(seed, Purpose.PARTITION, part=MOVES + 1)
    chance = data.label_distance(data.label_table(split, dealt.permutation(y)))
    far, bits = data.label_distance(counts), data.label_divergence(counts)
    pooled, guess = counts.sum(axis=0) / len(y), counts.max(axis=1).sum() / len(y)
    mixed, gini = 2 ** (-pooled @ np.log2(pooled) - bits), data.quantity_gini(sizes)
    measures = [
        ("label distance", far, "part of a device's rows to relabel for it to be even (Zhao 2018)"),
        ("label divergence", bits, "bits that a row's label tells of its device (Lin 1991)"),
        ("labels a device", mixed, "equally frequent ones, as mixed as a device's (Jost 2006)"),
        (
            "majority guess",
            guess,
            "accuracy of a device's commonest label (Goodman and Kruskal 1954)",
        ),
        ("size Gini", gini, "0 of equal sizes, near 1 if one has all (Gini 1912)"),
    ]
    said = (
        f"{split.how}: {sizes.min()} to {sizes.max()} rows each. Expected difficulty, by label "
        f"distance: {far:.2f}, of which chance alone would be {chance:.2f}. The larger, the more "
        "devices' models part; what that costs yours, only a run tells."
    )
    return figure, said, pd.DataFrame(measures, columns=["", "value", "what it says"]).set_index("")


def drill_down(
    federation: Federation, metric: str = "accuracy", *, query: Any = None, draw_row: Any = None
) -> VBox | None:
    """Show the devices of a federation by a metric, and one of them in full: the worst, at first.

    In a batch run it leaves that one's figure and tables.

    Parameters
    ----------
    federation : Federation
        It stays as it is; devices train once more, as in the next round, to tell their updates.
    metric : str
        By round, where the history has it of devices (``record="devices"``), such as
        ``train_loss``; else a column of `Federation.validate`. The worst is the lowest; of a loss,
        the highest.
    query : (d,) array, optional
        Whose five nearest rows are shown; by default those of a row of the device, itself first.
    draw_row : function of a (d,) row and axes, optional
        Draws it: ``lambda row, ax: ax.imshow(row.reshape(8, 8))``.

    Returns
    -------
    VBox or None
        A cell that ends with it shows it; None in a batch run.

    Raises
    ------
    ValueError
        If no device has such a metric.
    """
    told = federation.history.to_frame().query("who != 'server' and metric == @metric")
    rounds = told.pivot_table("value", "round", "who")
    if rounds.empty:
        worth = federation.validate()
        one_of(metric, worth, "metric")
        rounds = worth[[metric]].T.rename(columns=str)
    last = rounds.ffill().iloc[-1].sort_values(ascending="loss" not in metric)
    known = {str(device.id): place for place, device in enumerate(federation.devices)}
    places, plan, state = [known[name] for name in last.index], federation.plan, federation.state
    work = plan.algorithm.work(state.algorithm, state.served, np.array(places), state.kept)
    how = [federation.devices[place] for place in places], plan.model, work, plan.local
    trained = train_cohort(*how, seed=plan.seed, round=state.round + 1)
    mean = np.average(trained.changes, axis=0, weights=trained.rows)[None]
    measures = {"length": np.linalg.norm(trained.changes, axis=1) / np.linalg.norm(mean)}
    measures |= {"cosine": cosines(trained.changes.astype(np.float64), mean)}
    updates = pd.DataFrame(measures, last.index[trained.places]).reindex(last.index)

    def draw(who: str, row: int = 0) -> tuple[Any, ...]:
        index = (device := federation.devices[known[who]]).index
        asked = index.vectors[np.clip(row, 0, len(index) - 1)] if query is None else query
        hits = index.search(asked, 5)
        keys = hits.keys[hits.found]
        near = pd.DataFrame({"label": index.labels_of(keys)}, pd.Index(keys, name="key"))
        near["distance"] = hits.distances[hits.found].round(4)
        layout = "aaaaabbbbbccccc" + (";dddeeefffggghhh" if draw_row else "")
        figure, axes = pyplot.subplot_mosaic(layout, figsize=(12.0, 5.6 if draw_row else 3.4))
        worth, held, pulls, *more = axes.values()
        shades = dict.fromkeys(last.index, "#BBBBBB") | {last.index[0]: "#D55E00", who: "#0072B2"}
        for place, (name, shade) in enumerate(shades.items()):
            line = rounds[name].dropna() if len(rounds) > 1 else pd.Series(last[name], [place])
            worth.plot(line, ".-", lw=1, color=shade, zorder=2 + (shade != "#BBBBBB"))
        worth.locator_params(axis="x", integer=True)
        across = "round" if len(rounds) > 1 else "devices, from the worst"
        worth.set(xlabel=across, ylabel=metric, title=f"{who} is blue, the worst red")
        bins = 10 if device.labels.dtype.kind == "f" else None
        counts = pd.Series(device.labels).value_counts(bins=bins).sort_index()
        counts.plot.bar(ax=held, xlabel="label", ylabel="rows", title="what it holds")
        pulls.scatter(updates.length, updates.cosine, c=[*shades.values()])
        pulls.set(xlabel="length, by the mean's", ylabel="cosine to the mean", title="updates")
        for ax, key, label in zip(more, keys, near.label, strict=False):
            draw_row(index.get([key])[0], ax)
            ax.set_title(f"label {label}", fontsize=10)
        for ax in more:
            ax.set_axis_off()
        far, cosine = updates.loc[who]
        said = (
            f"{device!r}, {index!r}. Its {metric} is {last[who]:.3g}, number "
            f"{[*shades].index(who) + 1} of {len(last)} from the worst; its update {far:.2f} times "
            f"as long as the mean one, at a cosine of {cosine:.2f}. Only a simulation sees all "
            "this: deployed, a device's rows and update are seen by itself alone."
        )
        return figure, said, near

    names = [(f"{who}: {value:.3g}", who) for who, value in last.items()]
    chosen = "Dropdown", last.index[0], {"options": names, "description": "device"}
    own = () if query is not None else (("IntText", 0, {"description": "row"}),)
    return widgets.controlled(draw, chosen, *own)
