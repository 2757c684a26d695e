"""A map of what devices hold: their vectors in two dimensions, to hover over and to lasso."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib import pyplot

from fedlab.core.extras import imported
from fedlab.core.typing import U64
from fedlab.core.validation import of_kind, one_of, whole_number
from fedlab.device.device import Device
from fedlab.index.vectorindex import VectorIndex
from fedlab.workbench.figures.search import LEGEND, colours, plot_vectors
from fedlab.workbench.notebook import cells, widgets
from fedlab.workbench.report.outputs import FIGURE, KEY

#: Asks the browser that shows it whether it can draw the map.
_PROBE = """export default { render({ el }) {
  const gl = document.createElement("canvas").getContext("webgl");
  if (!gl?.getExtension("OES_texture_float")) el.classList.add("fedlab-no-webgl");
  gl?.getExtension("WEBGL_lose_context")?.loseContext(); } }"""
#: What it answers shows the map or the picture, without asking a kernel that may be busy.
_SHOWN = """.fedlab-map:has(.fedlab-no-webgl) > .fedlab-plot,
.fedlab-map:not(:has(.fedlab-no-webgl)) > .fedlab-face { display: none !important; }"""


class VectorMap:
    """A map of the vectors of an index, or of many, in two dimensions; a cell that ends with it
    shows it.

    Hover over a point to read its device, label and key; lasso some, and `selected` has their keys.
    A batch run leaves a figure, and a browser without WebGL shows it, too.

    Parameters
    ----------
    indexes : VectorIndex, Device, sequence of them, or mapping of id to them
        All of the same dimensions and metric. Under cosine, rows are brought to length one.
    by : {"label", "device"}
        What colours tell; the device where rows have no labels. Labels that are numbers are shown
        in ten ranges.
    method : {"pca", "umap"}
        The two directions of largest variance (Pearson, "On lines and planes of closest fit",
        1901), in which distances mean something; or UMAP (McInnes, Healy and Melville,
        arXiv:1802.03426), which keeps neighbours together: sizes of clusters, and distances between
        them, say nothing there. It takes the extra ``umap``.
    most : int
        Points at most: of more rows, one in so many is shown, on each device alike.
    seed : int
        Of the projection.

    Attributes
    ----------
    frame : DataFrame
        A row a point: ``device``, ``label``, ``key``, ``x`` and ``y``.
    alt : str
        What it shows, in words.
    scatter : jscatter.Scatter, or None
        The map, to change its looks, or to select rows of the frame: ``scatter.selection(rows)``.
    box : VBox, or None
        All that is shown; both are None in a batch run.

    Raises
    ------
    ValueError, TypeError
        If it is no index; if they differ in dimensions or metric, or hold fewer than three rows.
    ImportError
        Where UMAP is asked for, and not installed.

    Examples
    --------
    >>> index = VectorIndex(3)
    >>> _ = index.add(np.eye(3), labels=["a", "b", "b"])
    >>> drawn = vector_map({"ward 3": index})
    >>> drawn.frame.columns.tolist(), drawn.selected
    (['device', 'label', 'key', 'x', 'y'], {})
    """

    scatter: Any = None
    box: Any = None

    def __init__(
        self, indexes: Any, by: str = "label", method: str = "pca", most: int = 50000, seed: int = 0
    ) -> None:
        one_of(by, ("device", "label"), "by")
        one_of(method, ("pca", "umap"), "method")
        found = _named(indexes)
        self._ids = {str(name): name for name in found}
        self.frame = _gathered(found, method, whole_number(most, "most", 3), seed)
        self.by = by if self.frame.label.notna().any() else "device"
        shown, rows = len(self.frame), sum(map(len, found.values()))
        told = "across: {}, up: {}".format(*self.frame.attrs["axes"])
        self.alt = f"{shown:,} of {rows:,} vectors of {len(found)} devices, by {self.by}; {told}."
        if cells.is_batch():
            return
        import anywidget
        import ipywidgets

        jscatter = imported("jscatter", "workbench", "the map of vectors")
        palette, axes = colours(self.frame[self.by]), [*self.frame.attrs["axes"]]
        look = {"color_by": self.by, "color_map": palette, "axes_labels": axes, "height": 480}
        look |= {"tooltip": True, "tooltip_properties": ["device", "label", "key"]}
        look |= {"tooltip_histograms": False, "legend": len(palette) <= LEGEND}
        look |= {"color_labeling": {"variable": self.by}}
        # Keys as text: a browser's numbers are exact up to 2**53 alone.
        self.scatter = jscatter.Scatter("x", "y", self.frame.astype({"key": str}), **look)
        probe = type("Probe", (anywidget.AnyWidget,), {"_esm": _PROBE, "_css": _SHOWN})()
        face = ipywidgets.HTML().add_class("fedlab-face")
        plot = widgets.live(self.scatter.show(), self._tell, "selection").add_class("fedlab-plot")
        self.box = ipywidgets.VBox([probe, face, plot]).add_class("fedlab-map")

    def _tell(self, _: Any) -> None:
        said = [f"{len(keys):,} of device {device}" for device, keys in self.selected.items()]
        print("; ".join(said) or "Lasso some points: `selected` has their keys by device.")

    @property
    def selected(self) -> dict[int | str, U64]:
        """The keys of the points that a lasso holds, by device."""
        rows = self.frame.iloc[[] if self.scatter is None else self.scatter.selection()]
        parts = rows.groupby("device", observed=True).key
        return {self._ids[str(name)]: keys.to_numpy() for name, keys in parts}

    def _ipython_display_(self) -> None:
        figure, _, _ = plot_vectors(self.frame, self.by)
        if self.box is None:
            cells.show(figure, self.alt)
            return
        face = cells.pixels(figure, 110)
        pyplot.close(figure)
        source, said = base64.b64encode(face).decode(), html.escape(self.alt)
        picture = f'<img alt="{said}" src="data:{cells.PNG};base64,{source}">'
        self.box.children[1].value = f"<p>A picture: this browser has no WebGL.</p>{picture}"
        # Where nothing runs any more, as in an exported page, the picture stands for the map.
        shown = {**self.box._repr_mimebundle_(), cells.PNG: face, "text/plain": self.alt}
        notes = {KEY: {"role": FIGURE, "alt": self.alt}, cells.PNG: {"alt": self.alt}}
        display(shown, metadata=notes, raw=True)  # type: ignore[no-untyped-call]


vector_map = VectorMap


def _named(given: Any) -> dict[int | str, VectorIndex]:
    """Return indexes by the ids of their devices: of those that hold rows."""
    several = [given] if isinstance(given, VectorIndex | Device) else given
    if not isinstance(several, Mapping):
        several = {getattr(one, "id", place): one for place, one in enumerate(several)}
    found = {name: one.index if isinstance(one, Device) else one for name, one in several.items()}
    for index in found.values():
        of_kind(index, VectorIndex, "indexes")
    found = {name: index for name, index in found.items() if len(index)}
    kinds = {f"{index.dimensions} dimensions, {index.metric}" for index in found.values()}
    if len(kinds) != 1 or sum(map(len, found.values())) < 3:
        raise ValueError(f"given is {sorted(kinds)}; a map takes 3 rows at least, all of one kind")
    return found


def _gathered(found: Mapping[Any, Any], method: str, most: int, seed: int) -> pd.DataFrame:
    """Return the points in the order in which they are drawn, and what their axes are."""
    step, parts, rows = -(-sum(map(len, found.values())) // most), [], []
    for name, index in found.items():
        keys = index.keys[::step]
        labels = None if index.labels is None else index.labels_of(keys)
        parts.append(pd.DataFrame({"device": str(name), "label": labels, "key": keys}))
        vectors = index.get(keys)
        scale = np.linalg.norm(vectors, axis=1, keepdims=True) if index.metric == "cosine" else 1
        rows.append(vectors / np.maximum(scale, 1e-12))
    frame = pd.concat(parts, ignore_index=True)
    frame["device"] = pd.Categorical(frame.device, [str(name) for name in found])
    of_numbers = frame.label.dtype.kind == "f"
    groups = pd.cut(frame.label, 10) if of_numbers else frame.label.astype("category")
    frame["label"] = groups.cat.rename_categories(str)
    (frame["x"], frame["y"]), axes = _projected(np.concatenate(rows), method, seed)
    # Groups that are drawn in turn would hide those before them.
    frame = frame.iloc[np.argsort(np.arange(len(frame)) * 0.6180339887 % 1)]
    frame.attrs["axes"] = axes
    return frame.reset_index(drop=True)


def _projected(rows: Any, method: str, seed: int) -> tuple[Any, list[str]]:
    """Return where each row lies, (2, n), and what the directions are."""
    if method == "umap":
        umap: Any = imported("umap", "umap", "method='umap'")
        return umap.UMAP(random_state=seed, n_jobs=1).fit_transform(rows).T, ["UMAP 1", "UMAP 2"]
    from sklearn.decomposition import PCA

    fitted = PCA(2, random_state=seed)
    places = fitted.fit_transform(rows).T
    shares = enumerate(fitted.explained_variance_ratio_, 1)
    return places, [f"component {place} ({share:.0%} of variance)" for place, share in shares]
