"""Search across devices: exact with a proof, approximate, private; and what each of them leaks."""

from fedlab.core.ledger import Ledger
from fedlab.metrics.retrieval import Judged, judge, judge_labels
from fedlab.search.answers import FederatedHits, federated_recall
from fedlab.search.federated import FederatedSearch
from fedlab.search.respondent import Respondent, Responding
from fedlab.search.routing import Router, Summary, summarise

__all__ = [
    "FederatedHits",
    "FederatedSearch",
    "Judged",
    "Ledger",
    "Respondent",
    "Responding",
    "Router",
    "Summary",
    "federated_recall",
    "judge",
    "judge_labels",
    "summarise",
]
