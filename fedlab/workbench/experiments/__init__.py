"""Experiments that are too long for a notebook's cells."""

from fedlab.workbench.experiments.clinics import Recipe, cross_validate
from fedlab.workbench.experiments.contests import contest
from fedlab.workbench.experiments.defences import withstand
from fedlab.workbench.experiments.files import altered_files, killed_saves, sealing_costs
from fedlab.workbench.experiments.index import (
    churn,
    save_and_open,
    scan_against_graph,
    storage_types,
)
from fedlab.workbench.experiments.networks import network
from fedlab.workbench.experiments.recommenders import implicit_als, item_neighbours
from fedlab.workbench.experiments.search import (
    SearchComparison,
    central_index,
    compare_searches,
    recall_against_bytes,
)
from fedlab.workbench.experiments.texts import (
    adapters_apart,
    continuation_losses,
    deal_stories,
    deal_texts,
    passages,
    retrieved,
    with_context,
)

__all__ = [
    "Recipe",
    "SearchComparison",
    "adapters_apart",
    "altered_files",
    "central_index",
    "churn",
    "compare_searches",
    "contest",
    "continuation_losses",
    "cross_validate",
    "deal_stories",
    "deal_texts",
    "implicit_als",
    "item_neighbours",
    "killed_saves",
    "network",
    "passages",
    "recall_against_bytes",
    "retrieved",
    "save_and_open",
    "scan_against_graph",
    "sealing_costs",
    "storage_types",
    "with_context",
    "withstand",
]
