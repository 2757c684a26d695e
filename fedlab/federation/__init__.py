"""The round and the run: select, train, send, aggregate, step; measured, saved, resumed."""

from fedlab.federation.convergence import Convergence
from fedlab.federation.federation import Federation
from fedlab.federation.history import History, effort_to

__all__ = ["Convergence", "Federation", "History", "effort_to"]
