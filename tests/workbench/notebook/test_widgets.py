"""The slider: a live picture, errors that can be read, a real figure in a batch run."""

import ipywidgets
import matplotlib as mpl
import numpy as np
import pytest

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
