"""Private search across devices, each scheme with its threat model (`protections`) and its cost.

Masked sums find the exact k-th distance and the exact kNN vote (`kth_distances`, `vote`); two
servers search rows and queries that neither can read (`SharedIndex`); devices tell counts and
centroids with noise (`release_counts`, `release_total_counts`, `release_centroids`).
"""

from fedlab.privacy.mechanisms import Budget, BudgetError, Gaussian, Laplace
from fedlab.privacy.release import Centroids, release_centroids, release_counts
from fedlab.privacy.release_total import TotalCounts, release_total_counts
from fedlab.privacy.secure_sum import MissingDeviceError, Session
from fedlab.privacy.threat_model import Protection
from fedlab.search.private.catalogue import protections
from fedlab.search.private.cost_table import costs
from fedlab.search.private.knn_vote import Vote, vote
from fedlab.search.private.kth_distance import FalseCountsError, KthDistances, kth_distances
from fedlab.search.private.shared_index import SharedIndex

__all__ = [
    "Budget",
    "BudgetError",
    "Centroids",
    "FalseCountsError",
    "Gaussian",
    "KthDistances",
    "Laplace",
    "MissingDeviceError",
    "Protection",
    "Session",
    "SharedIndex",
    "TotalCounts",
    "Vote",
    "costs",
    "kth_distances",
    "protections",
    "release_centroids",
    "release_counts",
    "release_total_counts",
    "vote",
]
