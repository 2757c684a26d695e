"""Live parts of notebooks. In a batch run each leaves a real figure behind."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from IPython.display import display
from matplotlib import pyplot
from numpy.typing import ArrayLike

from fedlab.data import dirichlet, label_table
from fedlab.workbench import cells
from fedlab.workbench.figures import plot_labels

if TYPE_CHECKING:
    from ipywidgets import VBox
    from matplotlib.figure import Figure

__all__ = ["split_slider"]


def split_figure(labels: ArrayLike, devices: int, alpha: float, seed: int) -> tuple[Figure, str]:
    """Draw a Dirichlet split, and say in a sentence what it shows."""
    counts = label_table(dirichlet(labels, devices, alpha, seed), labels)
    figure, axes, _ = plot_labels(counts)
    axes.set_title(f"Dirichlet α = {alpha:.3g}")
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
    if cells.is_batch():
        cells.show(*split_figure(labels, devices, alpha, seed))
        return None
    import ipywidgets

    slider = ipywidgets.FloatLogSlider(
        value=alpha, base=10, min=-2, max=2, step=0.1, description="α", continuous_update=False
    )
    picture = ipywidgets.Output()

    def draw(change: dict[str, Any]) -> None:
        picture.clear_output(wait=True)
        # JupyterLab drops what a callback raises; in the output it can be read.
        with picture:
            try:
                figure, said = split_figure(labels, devices, change["new"], seed)
                display(figure)  # type: ignore[no-untyped-call]
                print(said)
                pyplot.close(figure)
            except ValueError as error:
                print(error)
            except Exception:
                traceback.print_exc()

    slider.observe(draw, names="value")
    draw({"new": alpha})
    box = ipywidgets.VBox([slider, picture])
    display(box)  # type: ignore[no-untyped-call]
    return box
