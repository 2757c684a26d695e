"""One device's vectors: stored, filtered, scanned exactly, searched through an engine, saved."""

from fedlab.index.answers import Hits, Neighbourhoods
from fedlab.index.vectorindex import VectorIndex

__all__ = ["Hits", "Neighbourhoods", "VectorIndex"]
