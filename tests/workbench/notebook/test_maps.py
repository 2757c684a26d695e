"""The map of vectors: what it shows, what is selected on it, and what it leaves elsewhere."""

from __future__ import annotations

import base64
import re
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from fedlab import Device, VectorIndex
from fedlab.workbench.figures import plot_vectors
from fedlab.workbench.notebook import cells, maps, vector_map


@pytest.fixture(autouse=True)
def _drawing() -> Any:
    mpl.use("agg")
    with mpl.rc_context():
        yield
    pyplot.close("all")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "is_batch", lambda: False)


def filled(rows: int, seed: int = 0, **settings: Any) -> VectorIndex:
    draw = np.random.default_rng(seed)
    index = VectorIndex(5, **settings)
    keys = np.uint64(2**62 + 1) + draw.permutation(np.arange(rows, dtype=np.uint64))
    index.add(draw.normal(size=(rows, 5)), keys=keys, labels=draw.integers(0, 3, rows))
    return index


def test_places_are_those_of_a_singular_value_decomposition() -> None:
    index = filled(40, metric="l2sq")
    frame = vector_map(index).frame
    x = index.get(frame.key.to_numpy()).astype(np.float64)
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    for column, expected in zip(("x", "y"), (u * s).T, strict=False):
        found = frame[column].to_numpy()
        np.testing.assert_allclose(found * np.sign(found @ expected), expected, atol=1e-4)
    shares = s**2 / (s**2).sum()
    assert frame.attrs["axes"] == [
        f"component {n} ({share:.0%} of variance)" for n, share in enumerate(shares[:2], 1)
    ]


def test_under_cosine_lengths_play_no_part() -> None:
    index, longer = filled(40), VectorIndex(5)
    scale = np.linspace(1, 9, 40)[:, None]
    longer.add(index.vectors * scale, keys=index.keys, labels=index.labels)
    short, long = (vector_map(one).frame for one in (index, longer))
    np.testing.assert_allclose(short[["x", "y"]], long[["x", "y"]], atol=1e-5)


def test_every_point_tells_whose_it_is() -> None:
    fleet = [Device(n, filled(20, seed)) for seed, n in enumerate((7, "ward 3"))]
    frame = vector_map(fleet).frame
    assert list(frame.device.cat.categories) == ["7", "ward 3"]
    assert len(frame) == 40
    for device in fleet:
        own = frame[frame.device == str(device.id)]
        assert set(own.key) == set(device.index.keys)
        assert own.label.tolist() == [str(y) for y in device.index.labels_of(own.key)]


def test_of_many_rows_one_in_so_many_is_shown_on_each_device_alike() -> None:
    chart = vector_map({"a": filled(300, 0), "b": filled(30, 1)}, most=100)
    assert chart.frame.device.value_counts().to_dict() == {"a": 75, "b": 8}
    assert chart.alt.startswith("83 of 330 vectors of 2 devices, by label; across: component 1")


@pytest.mark.parametrize("labels", [None, [0.5, 1.5, 2.5, 9.5]])
def test_labels_may_be_missing_or_numbers(labels: list[float] | None) -> None:
    index = VectorIndex(4)
    index.add(np.eye(4), labels=labels)
    chart = vector_map(index)
    assert chart.by == ("device" if labels is None else "label")
    figure, ax, frame = plot_vectors(chart.frame, chart.by)
    assert len(ax.collections[0].get_offsets()) == 4
    assert frame is chart.frame
    assert figure.legends


def test_a_legend_names_groups_as_long_as_they_are_few() -> None:
    points = pd.DataFrame({"x": np.arange(60.0), "y": 0.0})
    points.attrs["axes"] = ["x", "y"]
    for groups in (10, 20, 21):
        points["device"] = pd.Categorical(np.arange(60) % groups)
        figure, ax, _ = plot_vectors(points, "device")
        assert len(np.unique(ax.collections[0].get_facecolors(), axis=0)) == groups
        assert bool(figure.legends) == (groups <= 20)


def test_what_is_selected_is_told_by_device(live: None, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = [Device(n, filled(20, seed)) for seed, n in enumerate((7, "ward 3"))]
    chart = vector_map(fleet)
    assert chart.selected == {}
    assert "Lasso some points" in capsys.readouterr().out
    chosen = np.flatnonzero(chart.frame.device == "7")[:3]
    chart.scatter.widget.selection = np.append(chosen, np.flatnonzero(chart.frame.device != "7")[0])
    assert "3 of device 7; 1 of device ward 3" in capsys.readouterr().out
    found = chart.selected
    assert [*found] == [7, "ward 3"]
    assert found[7].dtype == np.uint64
    assert found[7].tolist() == chart.frame.key[chosen].tolist()
    assert set(found["ward 3"].tolist()) <= set(fleet[1].index.keys.tolist())


def test_keys_reach_the_browser_to_the_last_digit(live: None) -> None:
    chart = vector_map(filled(20))
    sent: list[dict[str, Any]] = []
    chart.scatter.widget.send = sent.append
    chart.scatter.show_tooltip(3)
    assert sent[0]["properties"]["key"] == str(chart.frame.key[3])


def test_what_is_shown_carries_a_picture_with_its_words(
    live: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Any, Any]] = []
    monkeypatch.setattr(maps, "display", lambda data, metadata, raw: shown.append((data, metadata)))
    chart = vector_map({"<b>&": filled(20)}, by="device")
    chart._ipython_display_()
    [(data, metadata)] = shown
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"]["alt"] == chart.alt == data["text/plain"]
    assert metadata["fedlab"] == {"role": "figure", "alt": chart.alt}
    page = chart.box.children[1].value
    assert "no WebGL" in page
    [source] = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(source) == data["image/png"]
    assert pyplot.get_fignums() == []


def test_a_batch_run_leaves_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(cells, "show", lambda figure, alt: shown.append(alt))
    chart = vector_map(filled(20))
    chart._ipython_display_()
    assert shown == [chart.alt]
    assert chart.box is chart.scatter is None


def test_umap_keeps_clouds_apart() -> None:
    random = np.random.default_rng(0)
    index = VectorIndex(16, "l2sq")
    middles = np.repeat([[0.0], [9.0]], 40, axis=0)
    index.add(middles + random.normal(size=(80, 16)), labels=np.repeat(["near", "far"], 40))
    frame = vector_map(index, by="label", method="umap", seed=7).frame
    assert frame.attrs["axes"] == ["UMAP 1", "UMAP 2"]
    places = frame.groupby("label", observed=True)[["x", "y"]]
    apart = np.linalg.norm(places.mean().diff().iloc[1])
    assert apart > 3 * places.std().to_numpy().max()


def test_without_umap_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="extra 'umap'"):
        vector_map(filled(20), method="umap")


@pytest.mark.parametrize(
    ("indexes", "error", "said"),
    [
        (
            [filled(5), filled(5, metric="l2sq")],
            ValueError,
            r"5 dimensions, cosine.*l2sq.*one kind",
        ),
        (filled(2), ValueError, "3 rows at least"),
        ([], ValueError, "3 rows at least"),
        ([np.eye(3)], TypeError, "give a VectorIndex"),
    ],
)
def test_what_is_no_map_is_refused(indexes: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        vector_map(indexes)


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="choose one of pca, umap"):
        vector_map(filled(5), method="tsne")
    with pytest.raises(ValueError, match="choose one of device, label"):
        vector_map(filled(5), by="key")
