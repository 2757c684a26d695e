"""What notebooks call: roles in output metadata, fitting progress, no figure without words."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
from jupyter_client.client import KernelClient
from jupyter_client.manager import KernelManager
from matplotlib import pyplot
from PIL import Image

from fedlab.core import progress
from fedlab.workbench.batch.jupyter import OwnKernelSpecs
from fedlab.workbench.notebook import cells
from fedlab.workbench.report import outputs
from tests.workbench.conftest import Batch

Shown = list[tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    """What was displayed: data and metadata."""
    kept: Shown = []
    monkeypatch.setattr(cells, "_display", lambda data, metadata: kept.append((data, metadata)))
    monkeypatch.setattr(progress, "_current", progress._current)
    with matplotlib.rc_context():
        matplotlib.use("agg")
        cells.begin()
        yield kept


def lines() -> Any:
    figure, axes = pyplot.subplots()
    axes.plot([3, 2, 1])
    return figure


def test_roles_survive_papermill(batch: Batch) -> None:
    node = nbformat.read(batch.executed / "01_say.ipynb", as_version=4)
    assert outputs.answer(node).startswith("Yes: **5 rounds**")
    assert outputs.provenance(node) == ["digits, scikit-learn, 1797 rows"]
    figure = outputs.main_figure(node)
    assert figure is not None
    assert outputs.alternative_text(figure) == "One line; it falls."


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelClient]:
    manager = KernelManager(kernel_name="python3", kernel_spec_manager=OwnKernelSpecs())
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_front_end_that_can_be_typed_into_is_live(kernel: KernelClient) -> None:
    asked = {"batch": "cells.is_batch()", "bar": "progress._current.__name__"}
    code = "from fedlab.core import progress\n"
    code += "from fedlab.workbench.notebook import cells\ncells.begin()"
    found = {}
    for typed in (True, False):
        reply = kernel.execute_interactive(
            code, user_expressions=asked, allow_stdin=typed, timeout=60
        )
        said = reply["content"]["user_expressions"]
        found[typed] = [said[name]["data"]["text/plain"] for name in asked]
    assert found == {True: ["False", "'_live_bar'"], False: ["True", "'_log_lines'"]}


@pytest.mark.parametrize("ends", ["", "[0][1]"])
def test_a_bar_leaves_no_widget_in_a_notebook(kernel: KernelClient, ends: str) -> None:
    told: list[dict[str, Any]] = []
    code = "from fedlab.core import progress\n"
    code += "from fedlab.workbench.notebook import cells\ncells.begin()\n"
    code += f"for _ in progress.bar(range(3), total=3, label='rounds'): {ends or 'pass'}"
    kernel.execute_interactive(code, allow_stdin=True, timeout=60, output_hook=told.append)
    drawn = [m["content"] for m in told if "display_data" in m["msg_type"]]
    assert "application/vnd.jupyter.widget-view+json" in drawn[0]["data"]
    assert drawn[-1]["data"] == {"text/plain": ""}
    assert drawn[0]["transient"] == drawn[-1]["transient"] != {}


def test_voila_is_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs cells as nbclient does, and says who it is in the kernel's environment."""
    assert cells.is_batch()
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.8")
    assert not cells.is_batch()


def test_a_figure_is_shown_with_words_and_closed(shown: Shown) -> None:
    cells.show(lines(), alt="  It\n falls. ")
    data, metadata = shown[0]
    assert metadata["fedlab"] == {"role": "figure", "alt": "It falls.", "main": False}
    assert metadata["image/svg+xml"]["alt"] == "It falls."
    assert data["image/svg+xml"].lstrip().startswith("<?xml")
    assert "image/png" not in data
    assert pyplot.get_fignums() == []


def test_a_figure_may_be_shown_twice_with_the_same_bytes(shown: Shown) -> None:
    figure = lines()
    cells.show(figure, alt="It falls.")
    cells.show(figure, alt="It falls.")
    assert shown[0] == shown[1]


def test_a_main_figure_brings_its_thumbnail(shown: Shown) -> None:
    cells.show(lines(), alt="It falls.", main=True)
    with Image.open(io.BytesIO(shown[0][0]["image/png"])) as picture:
        assert picture.width == 7 * 110
        assert "transparency" in picture.info


def test_a_heavy_figure_is_pixels(shown: Shown) -> None:
    figure, axes = pyplot.subplots()
    axes.scatter(*np.random.default_rng(0).normal(size=(2, 20_000)))
    cells.show(figure, alt="A cloud.")
    data, metadata = shown[0]
    assert "image/svg+xml" not in data
    assert metadata["image/png"]["width"] == 7 * 96


@pytest.mark.parametrize("alt", ["", "  \n"])
def test_a_figure_without_words_is_refused(alt: str, shown: Shown) -> None:
    figure = lines()
    with pytest.raises(ValueError, match="alt is empty"):
        cells.show(figure, alt=alt)
    with pytest.raises(ValueError, match="answer is empty"):
        cells.answer(alt)
    assert shown == []
    pyplot.close(figure)


class Unprintable:
    pass


@pytest.mark.parametrize("value", [[1], {"a": 1}, np.arange(3), Unprintable(), b"a", 1j, print])
def test_only_single_values_are_recorded(value: Any, shown: Shown) -> None:
    with pytest.raises(TypeError, match="loss is a"):
        cells.record(accuracy=0.5, loss=value)
    assert shown == []


def test_numpy_s_numbers_are_recorded_as_numbers(shown: Shown) -> None:
    values = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.array(2.0)}
    cells.record(**values, e=None, f="text", g=float("inf"), h=np.float64("nan"))
    kept = shown[0][1]["fedlab"]["values"]
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
    assert kept == {
        "a": 0.5,
        "b": 3,
        "c": True,
        "d": 2.0,
        "e": None,
        "f": "text",
        "g": None,
        "h": None,
    }
    assert isinstance(kept["c"], bool)


def test_the_numbers_that_an_answer_names_are_recorded(shown: Shown) -> None:
    cells.answer(
        "{best:.2f} after {rounds} rounds; {each}; on {day}.",
        **{"best": np.float32(0.5), "rounds": 40, "each": {"a": 1.0}, "day": np.datetime64("2026")},
    )
    data, metadata = shown[0]
    assert data["text/markdown"] == "0.50 after 40 rounds; a: 1; on 2026."
    assert metadata["fedlab"] == {"role": "answer", "values": {"best": 0.5, "rounds": 40}}


def test_the_reader_s_own_matplotlibrc_changes_no_figure() -> None:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        cells.begin()
        before = dict(matplotlib.rcParams)
        matplotlib.rcParams.update(
            {"figure.figsize": (1, 1), "lines.linewidth": 9, "svg.fonttype": "none"}
        )
        matplotlib.rcParams.update({"savefig.dpi": 3, "axes.xmargin": 0.4, "text.usetex": True})
        cells.begin()
        assert dict(matplotlib.rcParams) == before


def test_the_first_figure_stands_in_for_a_main_one() -> None:
    def output(main: bool, alt: str) -> Any:
        marks = {"role": "figure", "main": main, "alt": alt}
        return nbformat.v4.new_output("display_data", {}, metadata={"fedlab": marks})

    def node(*made: Any) -> Any:
        code = nbformat.v4.new_code_cell(outputs=list(made))
        return nbformat.v4.new_notebook(cells=[code])

    assert outputs.main_figure(node()) is None
    plain = outputs.main_figure(node(output(False, "a"), output(False, "b")))
    marked = outputs.main_figure(node(output(False, "a"), output(True, "b"), output(True, "c")))
    assert (outputs.alternative_text(plain), outputs.alternative_text(marked)) == ("a", "c")  # type: ignore[arg-type]


def test_batch_progress_is_quiet_when_quick(
    shown: Shown, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(progress.bar(range(50), total=50, label="rounds")) == list(range(50))
    assert capsys.readouterr().out == ""
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(cells.time, "monotonic", lambda: next(clock))
    assert list(progress.bar(range(9), total=9, label="rounds")) == list(range(9))
    said = capsys.readouterr().out.splitlines()
    assert said == ["rounds: 2 of 9, 12 s", "rounds: 5 of 9, 24 s", "rounds: 8 of 9, 36 s"]


def test_colours_differ_for_the_colour_blind() -> None:
    """Any two of the cycle stay apart to eyes that lack the red or the green cone.

    The linear maps are those of Viénot, Brettel and Mollon (1999) in linear sRGB.
    """
    seen_as = {
        "protan": [[0.112, 0.888, 0.0], [0.112, 0.888, 0.0], [0.004, -0.004, 1.0]],
        "deutan": [[0.292, 0.708, 0.0], [0.292, 0.708, 0.0], [-0.022, 0.022, 1.0]],
    }
    with matplotlib.rc_context():
        matplotlib.style.use(cells.STYLE)
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    linear = np.array([matplotlib.colors.to_rgb(colour) for colour in cycle]) ** 2.2
    for matrix in seen_as.values():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        assert apart[np.triu_indices(len(cycle), 1)].min() > 0.1


def test_words_carry_values_by_name(shown: Shown) -> None:
    last = pd.Series({"even": 0.94123, "skewed": 0.5})
    cells.show(lines(), alt="It falls; last: {last}.", last=last)
    cells.answer(
        "**{gain:+.1f}** points, of {sizes}; \\alpha = {alpha:g}",
        gain=2,
        sizes=[1, 2500.0],
        alpha=0.5,
    )
    cells.answer("braces {stay} without values")
    assert shown[0][0]["text/plain"] == "It falls; last: even: 0.941, skewed: 0.5."
    assert shown[1][0]["text/plain"] == "**+2.0** points, of 1, 2,500; \\alpha = 0.5"
    assert shown[2][0]["text/plain"] == "braces {stay} without values"


def test_a_value_that_was_not_given_is_named(shown: Shown) -> None:
    with pytest.raises(ValueError, match="names 'gian', which was not given; there are gain"):
        cells.answer("{gian} points", gain=2)
    assert shown == []
