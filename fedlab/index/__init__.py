"""One device's vectors: stored, filtered, scanned exactly, searched through an engine, saved."""

from fedlab.index.answers import Hits, Neighbourhoods
from fedlab.index.certificate import Certificate, CertificateError, content_hash
from fedlab.index.file import IndexFileError
from fedlab.index.filters import FilterError
from fedlab.index.state import Upserted
from fedlab.index.vectorindex import VectorIndex

__all__ = [
    "Certificate",
    "CertificateError",
    "FilterError",
    "Hits",
    "IndexFileError",
    "Neighbourhoods",
    "Upserted",
    "VectorIndex",
    "content_hash",
]
