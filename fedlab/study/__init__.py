"""Studies: many runs of one notebook or function, resumed, on any executor, read as one frame."""

from fedlab.study.budgeted import Tuned, tuned
from fedlab.study.comparing import best, candidates, compare, effects, finals, pareto
from fedlab.study.export import to_crate, to_mlflow
from fedlab.study.judging import Validators
from fedlab.study.points import Range, drawn, grid
from fedlab.study.results import keep, load_runs, record, timings
from fedlab.study.study import Study
from fedlab.study.tuning import Tuning
from fedlab.study.watching import watched

__all__ = [
    "Range",
    "Study",
    "Tuned",
    "Tuning",
    "Validators",
    "best",
    "candidates",
    "compare",
    "drawn",
    "effects",
    "finals",
    "grid",
    "keep",
    "load_runs",
    "pareto",
    "record",
    "timings",
    "to_crate",
    "to_mlflow",
    "tuned",
    "watched",
]
