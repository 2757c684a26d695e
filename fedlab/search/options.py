"""What a search across devices may save: whom it asks, in how many bits, and how often.

Three savings of `FederatedSearch`, each by itself or together, beside answers through graphs
(``exact=False``): a router asks only the devices whose centroids are near (see
`fedlab.search.routing`), the query travels in fewer bits (`fedlab.search.queries`), and devices
that may hold more are not asked again. What few bits put out of order, `rescore` puts right by
having the best hits measured against the full query. An answer that none of this touched is
certified.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedlab.core.ledger import Ledger
from fedlab.core.typing import F32, Bool
from fedlab.core.validation import one_of, whole_number, whole_or_none
from fedlab.search.queries import QUERY_TYPES, PackedQueries, packed
from fedlab.search.routing import Router


@dataclass(frozen=True, eq=False)
class Options:
    """How queries reach devices; see `FederatedSearch` for the parameters."""

    router: Router | None = None
    ask: int | None = None
    query: str = "f32"
    rescore: int = 0
    ask_again: bool = True

    def __post_init__(self) -> None:
        one_of(self.query, QUERY_TYPES, "query")
        if self.ask is None and self.router is not None:
            raise ValueError("a router was given, and not how many devices to ask: ask=...")
        if self.ask is not None and self.router is None:
            raise ValueError(
                f"ask is {self.ask}, and no router says whom: router=Router.learn(devices)"
            )
        whole_or_none(self.ask, "ask", 1)
        if whole_number(self.rescore, "rescore", 0) and self.exact:
            raise ValueError(
                f"rescore is {self.rescore}, and queries travel in full: give query=... with it"
            )

    def require(self, devices: tuple[int | str, ...], metric: str, dimensions: int) -> None:
        """Refuse a router that was learned from others than these."""
        if self.router is None:
            return
        if self.router.devices != devices:
            raise ValueError("the router was learned from other devices, or in another order")
        if (self.router.metric, self.router.dimensions) != (metric, dimensions):
            raise ValueError(
                f"the router is for {self.router.dimensions} dimensions under "
                f"{self.router.metric}, the devices hold {dimensions} under {metric}"
            )

    @property
    def exact(self) -> bool:
        """Whether devices search for what was asked."""
        return self.query == "f32"

    def sent(self, queries: F32, metric: str) -> PackedQueries:
        """Return queries, which have been checked, as they travel."""
        return packed(queries, metric, self.query)

    def whom(self, queries: F32) -> Bool | None:
        """Return who is asked what, (queries, devices); None where all are asked all."""
        if self.router is None or self.ask is None:
            return None
        return self.router.choose(queries, self.ask)

    def note(self, ledger: Ledger) -> None:
        """Count what the router was learned from."""
        if self.router is not None:
            self.router.note(ledger)
