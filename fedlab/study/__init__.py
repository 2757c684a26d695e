"""Studies: many runs of one notebook or function, resumed, on any executor, read as one frame."""

from fedlab.study.points import Range, drawn, grid
from fedlab.study.results import keep, load_runs, record, timings
from fedlab.study.study import Study
from fedlab.study.tuning import Tuning
from fedlab.study.watching import watched

__all__ = [
    "Range",
    "Study",
    "Tuning",
    "drawn",
    "grid",
    "keep",
    "load_runs",
    "record",
    "timings",
    "watched",
]
