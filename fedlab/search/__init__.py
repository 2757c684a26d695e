"""Search across devices: exact with a proof, approximate, private; and what each of them leaks."""

from fedlab.search.exact import FederatedSearch
from fedlab.search.found import FederatedHits
from fedlab.search.ledger import Ledger

__all__ = ["FederatedHits", "FederatedSearch", "Ledger"]
