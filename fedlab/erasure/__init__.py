"""Erasing rows for certain: what is left of their bytes, and a certificate of what was done."""

from fedlab.erasure.audit import Audit, Finding, audit_erasure
from fedlab.erasure.controls import compare_ways, erase_across, erase_and_audit
from fedlab.erasure.fingerprints import Fingerprints
from fedlab.index.certificate import Certificate, CertificateError, content_hash

__all__ = [
    "Audit",
    "Certificate",
    "CertificateError",
    "Finding",
    "Fingerprints",
    "audit_erasure",
    "compare_ways",
    "content_hash",
    "erase_across",
    "erase_and_audit",
]
