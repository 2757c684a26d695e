"""Devices keep their data in a vector index of their own, and learn together without sharing it.

Three primitives stand at the front door: `VectorIndex` (vectors in, neighbours out), `Device` (one
index, its labels, its hardware) and `Federation` (federated averaging, round by round).
"""

from typing import TYPE_CHECKING, Any

from fedlab._version import __version__
from fedlab.device.device import Device
from fedlab.device.from_data import Drifting, devices_from_table, spread, standardised
from fedlab.device.population import Population, write_population
from fedlab.device.profile import Profile
from fedlab.federation.convergence import Convergence
from fedlab.federation.federation import Federation
from fedlab.federation.history import History
from fedlab.files.keys import Key, Passphrase
from fedlab.index.answers import Hits
from fedlab.index.vectorindex import VectorIndex
from fedlab.models import MLP, LinearRegression, SoftmaxRegression
from fedlab.training import LocalSGD, PrivateSGD

if TYPE_CHECKING:
    from fedlab.study import Study, load_runs

__all__ = [
    "MLP",
    "Convergence",
    "Device",
    "Drifting",
    "Federation",
    "History",
    "Hits",
    "Key",
    "LinearRegression",
    "LocalSGD",
    "Passphrase",
    "Population",
    "PrivateSGD",
    "Profile",
    "SoftmaxRegression",
    "Study",
    "VectorIndex",
    "__version__",
    "devices_from_table",
    "load_runs",
    "spread",
    "standardised",
    "write_population",
]


def __getattr__(name: str) -> Any:
    """Import what studies need when it is asked for: a round doesn't."""
    if name in ("Study", "load_runs"):
        from fedlab import study

        return getattr(study, name)
    raise AttributeError(f"module 'fedlab' has no attribute {name!r}")
