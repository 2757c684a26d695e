"""The slider: a live picture, errors that can be read, a real figure in a batch run."""

import ipywidgets
import matplotlib as mpl
from matplotlib import pyplot

from fedlab.workbench.notebook import cells, widgets


def test_a_slider_draws_what_its_value_asks_for(monkeypatch, capsys):
    mpl.use("agg")

    def draw(share):
        return pyplot.figure(), f"{share:.0%} attack"

    monkeypatch.setattr(cells, "is_batch", lambda: False)
    box = widgets.slider(draw, 0.2, options=[("few", 0.2), ("many", 0.4)])
    [control] = box.children[0].children
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
