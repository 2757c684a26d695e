"""Live parts of notebooks. In a batch run each leaves a real figure behind."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from IPython.display import display
from matplotlib import pyplot
from numpy.typing import ArrayLike

from fedlab.data import dirichlet, label_table
from fedlab.workbench.figures.learning import plot_splits
from fedlab.workbench.notebook import cells

if TYPE_CHECKING:
    from ipywidgets import VBox, Widget
    from matplotlib.figure import Figure


def split_figure(labels: ArrayLike, devices: int, alpha: float, seed: int) -> tuple[Figure, str]:
    """Draw a Dirichlet split, and say in a sentence what it shows."""
    counts = label_table(dirichlet(labels, devices, alpha, seed), labels)
    figure, _, _ = plot_splits({f"Dirichlet α = {alpha:.3g}": counts})
    sizes, held = counts.sum(axis=1), (counts > 0).sum(axis=1)
    return figure, (
        f"Dirichlet split at alpha {alpha:.3g}: {devices} devices hold {sizes.min()} to "
        f"{sizes.max()} rows of {held.min()} to {held.max()} labels each."
    )


def split_slider(labels: ArrayLike, devices: int, *, alpha: float, seed: int) -> VBox | None:
    """Show a slider for α with a live picture of the split; in batch, the picture for `alpha`.

    Parameters
    ----------
    labels : (n,) classes
    devices : int
    alpha : float
        Where the slider begins, 0.01 ... 100.
    seed : int

    Returns
    -------
    VBox or None
        The widget, which is also shown; None in a batch run.
    """
    scale = {"base": 10, "min": -2, "max": 2, "step": 0.1, "description": "α"}
    return slider(
        lambda alpha: split_figure(labels, devices, alpha, seed), alpha, "FloatLogSlider", **scale
    )


def slider(
    draw: Callable[[float], tuple[Figure, str]],
    value: float,
    kind: str = "SelectionSlider",
    **settings: Any,
) -> VBox | None:
    """Show a slider with a live figure; in batch, the figure for `value`.

    Parameters
    ----------
    draw : function of the slider's value
        Returns a figure, and what it shows in a sentence.
    value : float
        Where the slider begins.
    kind : str
        Of ipywidgets.
    **settings
        What it takes, such as ``options=`` or ``description=``.

    Returns
    -------
    VBox or None
        The widget, which is also shown; None in a batch run.
    """
    if cells.is_batch():
        cells.show(*draw(value))
        return None
    import ipywidgets

    def show(value: float) -> None:
        figure, said = draw(value)
        display(figure)  # type: ignore[no-untyped-call]
        print(said)
        pyplot.close(figure)

    control = getattr(ipywidgets, kind)(value=value, continuous_update=False, **settings)
    return live(control, show)


def live(control: Widget, show: Callable[[Any], None]) -> VBox:
    """Show a control above what it says, which is shown anew whenever its value changes.

    Parameters
    ----------
    control : Widget
        With a ``value``.
    show : callable
        Displays or prints what the value asks for. A ValueError is printed without its trace.
    """
    import ipywidgets

    output = ipywidgets.Output()

    def changed(change: dict[str, Any]) -> None:
        output.clear_output(wait=True)
        # JupyterLab drops what a callback raises; in the output it can be read.
        with output:
            try:
                show(change["new"])
            except ValueError as error:
                print(error)
            except Exception:
                traceback.print_exc()

    control.observe(changed, names="value")
    changed({"new": control.value})
    box = ipywidgets.VBox([control, output])
    display(box)  # type: ignore[no-untyped-call]
    return box
