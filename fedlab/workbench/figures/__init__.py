"""Figures, each drawn from one tidy frame, which it returns with the figure and its axes."""

from fedlab.workbench.figures.erasure import plot_traces
from fedlab.workbench.figures.leaks import plot_grid, plot_images, plot_leaks
from fedlab.workbench.figures.learning import (
    plot_convergence,
    plot_counts,
    plot_crossing,
    plot_intervals,
    plot_lines,
    plot_panels,
    plot_sorted,
    plot_splits,
    plot_tradeoff,
)
from fedlab.workbench.figures.search import plot_recall_bytes, plot_vectors
from fedlab.workbench.figures.studies import plot_contest, plot_effects, plot_pareto

__all__ = [
    "plot_contest",
    "plot_convergence",
    "plot_counts",
    "plot_crossing",
    "plot_effects",
    "plot_grid",
    "plot_images",
    "plot_intervals",
    "plot_leaks",
    "plot_lines",
    "plot_panels",
    "plot_pareto",
    "plot_recall_bytes",
    "plot_sorted",
    "plot_splits",
    "plot_traces",
    "plot_tradeoff",
    "plot_vectors",
]
