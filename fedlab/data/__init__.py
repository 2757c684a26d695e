"""Data: known sources, pinned and verified; tables and vectors of one's own; splits over devices.

Importing this is cheap: pandas, scikit-learn and pyarrow load when a function needs them.
"""

from .loaders import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_glove,
    load_heart,
    load_mnist5k,
)
from .partitions import Partition, PartitionError, audit, by_column, dirichlet, iid, label_table
from .prepare import ColumnSums, Preparation
from .pull import pull, verify
from .sources import DataChanged, DataError, DataUnavailable, Origin, Source, source, sources
from .standins import load_clinics, load_images, load_words, train_test
from .tables import read_table, read_vectors
from .targets import Target
from .values import Dataset, Table, WordVectors

__all__ = [
    "ColumnSums",
    "DataChanged",
    "DataError",
    "DataUnavailable",
    "Dataset",
    "Origin",
    "Partition",
    "PartitionError",
    "Preparation",
    "Source",
    "Table",
    "Target",
    "WordVectors",
    "audit",
    "by_column",
    "dirichlet",
    "iid",
    "label_table",
    "load_breast_cancer",
    "load_clinics",
    "load_diabetes",
    "load_digits",
    "load_glove",
    "load_heart",
    "load_images",
    "load_mnist5k",
    "load_words",
    "pull",
    "read_table",
    "read_vectors",
    "source",
    "sources",
    "train_test",
    "verify",
]
