"""Devices keep their data in a vector index of their own, and learn together without sharing it.

Three primitives stand at the front door: `VectorIndex` (vectors in, neighbours out), `Device` (one
index, its labels, its hardware) and `Federation` (federated averaging, round by round).
"""

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
    "VectorIndex",
    "__version__",
    "devices_from_table",
    "spread",
    "standardised",
    "write_population",
]
