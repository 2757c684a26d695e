"""Live parts of notebooks. In a batch run each leaves a real figure behind."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from textwrap import fill
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import display
from matplotlib import pyplot

from fedlab.workbench.notebook import cells

if TYPE_CHECKING:
    from ipywidgets import Button, Output, VBox, Widget


def slider(
    draw: Callable[..., tuple[Any, ...]],
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
        A cell that ends with it shows it; None in a batch run.
    """
    return controlled(draw, (kind, value, settings))


def controlled(
    draw: Callable[..., tuple[Any, ...]], *controls: tuple[str, Any, dict[str, Any]]
) -> VBox | None:
    """Show controls with a live figure; in batch, the figure for the values that they begin with.

    Parameters
    ----------
    draw : function of all controls' values
        Returns a figure, what it shows in words, and tables to be shown below.
    *controls : (kind, value, settings)
        Each as in `slider`.

    Returns
    -------
    VBox or None
        A cell that ends with it shows it; None in a batch run.
    """
    batch = cells.is_batch()

    def show(*values: Any) -> None:
        figure, said, *tables = draw(*values)
        if batch:
            cells.show(figure, said)
        else:
            display(figure)  # type: ignore[no-untyped-call]
            print(fill(said, 100))
            pyplot.close(figure)
        with pd.option_context("display.max_colwidth", None, "display.precision", 3):
            for table in tables:
                display(table)  # type: ignore[no-untyped-call]

    if batch:
        show(*(value for _, value, _ in controls))
        return None
    import ipywidgets

    made = [getattr(ipywidgets, kind)(value=value, **more) for kind, value, more in controls]
    for control in made:
        control.continuous_update = False
    return live(ipywidgets.VBox(made), show)


def live(control: Widget, show: Callable[..., None], trait: str = "value") -> VBox:
    """Put a control, or a box of them, above what they say, which is said anew at every change.

    Parameters
    ----------
    control : Widget
    show : callable
        Displays or prints what the values ask for. A ValueError is printed without its trace.
    trait : str
        What of each control is looked at.

    Returns
    -------
    VBox
        A cell that ends with it shows it.
    """
    import ipywidgets

    output = ipywidgets.Output()
    controls = getattr(control, "children", (control,))

    def changed(_: Any) -> None:
        told(output, lambda: show(*(getattr(one, trait) for one in controls)))

    for one in controls:
        one.observe(changed, names=trait)
    changed(None)
    return ipywidgets.VBox([control, output])


def told(output: Output, show: Callable[[], None]) -> None:
    """Show in an output what a call displays, prints or raises, instead of what stands there.

    JupyterLab drops what a callback raises; in the output it can be read.
    """
    output.clear_output(wait=True)
    with output:
        try:
            show()
        except ValueError as error:
            print(error)
        except Exception:
            traceback.print_exc()


def button(description: str, icon: str, press: Callable[[], object]) -> Button:
    """Return a button, with an icon of Font Awesome, that calls a function."""
    import ipywidgets

    made = ipywidgets.Button(description=description, icon=icon, layout={"width": "auto"})
    made.on_click(lambda _: press())
    return made
