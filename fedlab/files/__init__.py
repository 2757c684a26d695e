"""Files that are whole or absent, checked byte by byte, sealed under a key."""

from fedlab.files.keys import Key, KeyProblem, Passphrase
from fedlab.files.sealing import SealError, is_sealed, reseal

__all__ = ["Key", "KeyProblem", "Passphrase", "SealError", "is_sealed", "reseal"]
