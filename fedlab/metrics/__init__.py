"""How results are judged: retrieval measures, AUC, folds, fairness, intervals, comparisons."""

from fedlab.metrics.auc import Ranking, bootstrap_interval
from fedlab.metrics.evenness import Fairness, fairness
from fedlab.metrics.folds import held_out_groups, refuse_broken, stratified_folds
from fedlab.metrics.intervals import Interval, mean_interval
from fedlab.metrics.paired import compared, seeds_needed
from fedlab.metrics.retrieval import Judged, judge, judge_labels, recall
from fedlab.metrics.scores import named_metrics, score

__all__ = [
    "Fairness",
    "Interval",
    "Judged",
    "Ranking",
    "bootstrap_interval",
    "compared",
    "fairness",
    "held_out_groups",
    "judge",
    "judge_labels",
    "mean_interval",
    "named_metrics",
    "recall",
    "refuse_broken",
    "score",
    "seeds_needed",
    "stratified_folds",
]
