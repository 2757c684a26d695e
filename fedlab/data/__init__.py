"""Data: known sources, pinned and verified; tables and vectors of one's own; splits over devices.

Importing this is cheap: pandas, scikit-learn and pyarrow load when a function needs them.
"""

from fedlab.data.embedding.encoders import (
    Embedded,
    TextEncoder,
    VectorsChanged,
    embed,
    kept_vectors,
    text_encoder,
)
from fedlab.data.embedding.projection import Projection, ProjectionLoss, hashed
from fedlab.data.loading.language import Pretrained, load_minilm, load_smollm2
from fedlab.data.loading.loaders import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_glove,
    load_heart,
    load_mnist5k,
)
from fedlab.data.loading.pull import pull, verify
from fedlab.data.loading.ratings import Ratings, load_movielens, load_ratings
from fedlab.data.loading.registry import (
    DataChanged,
    DataError,
    DataUnavailable,
    Origin,
    Source,
    source,
    sources,
)
from fedlab.data.loading.standins import load_clinics, load_images, load_words, train_test
from fedlab.data.loading.texts import Terms, Texts, load_icd10, load_newsgroups, load_reuters
from fedlab.data.partitions.feature_noise import with_feature_noise
from fedlab.data.partitions.heterogeneity import (
    embedding_skew,
    label_distance,
    label_divergence,
    quantity_gini,
)
from fedlab.data.partitions.label_shift import Drift
from fedlab.data.partitions.partition import (
    Partition,
    PartitionError,
    audit,
    by_column,
    iid,
    label_table,
)
from fedlab.data.partitions.schemes import by_classes, by_quantity, dirichlet, shards
from fedlab.data.partitions.synthetic import Synthetic, synthetic, synthetic_iid
from fedlab.data.stores.opening import open_vectors
from fedlab.data.stores.source import VectorSource
from fedlab.data.tables.preparation import ColumnSums, Preparation
from fedlab.data.tables.reading import read_table, read_vectors
from fedlab.data.tables.targets import Target
from fedlab.data.tables.values import Dataset, Table, WordVectors

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
    "Pretrained",
    "Projection",
    "ProjectionLoss",
    "Ratings",
    "Source",
    "Synthetic",
    "Table",
    "Target",
    "Terms",
    "TextEncoder",
    "Texts",
    "VectorSource",
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
    "kept_vectors",
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
    "load_minilm",
    "load_mnist5k",
    "load_movielens",
    "load_newsgroups",
    "load_ratings",
    "load_reuters",
    "load_smollm2",
    "load_words",
    "open_vectors",
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
