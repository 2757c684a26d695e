"""The round and the run: select, train, send, aggregate, step; measured, saved, resumed."""

from fedlab.federation.convergence import Convergence
from fedlab.federation.federation import Federation
from fedlab.federation.history import History, Report, effort_to
from fedlab.federation.plan import Plan
from fedlab.federation.state import RunState

__all__ = ["Convergence", "Federation", "History", "Plan", "Report", "RunState", "effort_to"]
