"""Search across devices: exact with a proof, approximate, private; and what each of them leaks."""

from fedlab.core.ledger import Ledger
from fedlab.search.exact import FederatedSearch
from fedlab.search.found import FederatedHits
from fedlab.search.messages import Respondent, Responding
from fedlab.search.quality import Judged, federated_recall, judge, judge_labels
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
