"""Data: known sources, pinned and verified; tables and vectors of one's own; splits over devices.

Importing this is cheap: pandas, scikit-learn and pyarrow load when a function needs them.
"""

from .drift import Drift
from .embedding import Embedded, TextEncoder, VectorsChanged, embed, text_encoder
from .loaders import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_glove,
    load_heart,
    load_mnist5k,
)
from .measures import embedding_skew, label_distance, label_divergence, quantity_gini
from .noise import with_feature_noise
from .partitions import Partition, PartitionError, audit, by_column, iid, label_table
from .prepare import ColumnSums, Preparation
from .projection import Projection, hashed
from .projection_loss import ProjectionLoss
from .pull import pull, verify
from .sources import DataChanged, DataError, DataUnavailable, Origin, Source, source, sources
from .splits import by_classes, by_quantity, dirichlet, shards
from .standins import load_clinics, load_images, load_words, train_test
from .synthetic import Synthetic, synthetic, synthetic_iid
from .tables import read_table, read_vectors
from .targets import Target
from .texts import Terms, Texts, load_icd10, load_newsgroups, load_reuters
from .values import Dataset, Table, WordVectors

__all__ = [
    "ColumnSums",
    "DataChanged",
    "DataError",
    "DataUnavailable",
    "Dataset",
    "Drift",
    "Embedded",
    "Origin",
    "Partition",
    "PartitionError",
    "Preparation",
    "Projection",
    "ProjectionLoss",
    "Source",
    "Synthetic",
    "Table",
    "Target",
    "Terms",
    "TextEncoder",
    "Texts",
    "VectorsChanged",
    "WordVectors",
    "audit",
    "by_classes",
    "by_column",
    "by_quantity",
    "dirichlet",
    "embed",
    "embedding_skew",
    "hashed",
    "iid",
    "label_distance",
    "label_divergence",
    "label_table",
    "load_breast_cancer",
    "load_clinics",
    "load_diabetes",
    "load_digits",
    "load_glove",
    "load_heart",
    "load_icd10",
    "load_images",
    "load_mnist5k",
    "load_newsgroups",
    "load_reuters",
    "load_words",
    "pull",
    "quantity_gini",
    "read_table",
    "read_vectors",
    "shards",
    "source",
    "sources",
    "synthetic",
    "synthetic_iid",
    "text_encoder",
    "train_test",
    "verify",
    "with_feature_noise",
]
