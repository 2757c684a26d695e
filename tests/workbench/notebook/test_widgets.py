"""The slider: a live picture, errors that can be read, a real figure in a batch run."""

import ipywidgets
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

from fedlab.workbench.notebook import cells, widgets

LABELS = np.repeat(np.arange(5), 60)


@pytest.fixture
def live(monkeypatch):
    mpl.use("agg")
    monkeypatch.setattr(cells, "is_batch", lambda: False)
    return widgets.split_slider(LABELS, devices=6, alpha=1.0, seed=0)


def test_moving_the_slider_draws_another_split(live, capsys):
    slider, picture = live.children
    assert isinstance(slider, ipywidgets.FloatLogSlider)
    capsys.readouterr()
    slider.value = 100.0
    even = capsys.readouterr().out
    slider.value = 0.1
    skewed = capsys.readouterr().out
    assert "alpha 100: 6 devices" in even
    assert "of 5 to 5 labels each" in even
    assert "alpha 0.1: 6 devices" in skewed
    assert even != skewed
    assert isinstance(picture, ipywidgets.Output)


def test_a_split_that_cannot_be_is_said_in_the_output(monkeypatch, capsys):
    mpl.use("agg")
    monkeypatch.setattr(cells, "is_batch", lambda: False)
    widgets.split_slider(LABELS[:20], devices=6, alpha=1.0, seed=0)
    assert "allow 1 ... 2" in capsys.readouterr().out


def test_a_batch_run_leaves_a_figure_behind(monkeypatch):
    mpl.use("agg")
    shown = []
    monkeypatch.setattr(cells, "show", lambda figure, alt: shown.append((figure, alt)))
    assert widgets.split_slider(LABELS, devices=6, alpha=0.5, seed=0) is None
    [(figure, alt)] = shown
    assert len(figure.axes) == 2
    assert "alpha 0.5: 6 devices hold" in alt


def test_a_slider_draws_what_its_value_asks_for(monkeypatch, capsys):
    mpl.use("agg")

    def draw(share):
        return pyplot.figure(), f"{share:.0%} attack"

    monkeypatch.setattr(cells, "is_batch", lambda: False)
    box = widgets.slider(draw, 0.2, options=[("few", 0.2), ("many", 0.4)])
    control, _ = box.children
    assert isinstance(control, ipywidgets.SelectionSlider)
    control.value = 0.4
    said = [line for line in capsys.readouterr().out.splitlines() if "attack" in line]
    assert said == ["20% attack", "40% attack"]
    shown = []
    monkeypatch.setattr(cells, "is_batch", lambda: True)
    monkeypatch.setattr(cells, "show", lambda figure, alt: shown.append(alt))
    assert widgets.slider(draw, 0.2, options=[0.2, 0.4]) is None
    assert shown == ["20% attack"]
    assert pyplot.get_fignums()  # `cells.show` closes it, which is not the one here
    pyplot.close("all")
