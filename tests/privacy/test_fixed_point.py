"""Words of few bits, one after another: against whole numbers of Python."""

from __future__ import annotations

import numpy as np
import pytest

from fedlab.privacy.fixed_point import from_bits, to_bits


@pytest.mark.parametrize(
    ("bits", "kind"), [(8, "u4"), (11, "u4"), (24, "u4"), (30, "u4"), (32, "u4"), (64, "u8")]
)
@pytest.mark.parametrize("count", [0, 1, 13])
def test_words_travel_in_their_lowest_bits(bits: int, kind: str, count: int) -> None:
    words = (
        np.random.default_rng(bits)
        .integers(0, 2**bits - 1, count, dtype=np.uint64, endpoint=True)
        .astype(kind)
    )
    coded = to_bits(words, bits)
    whole = sum(int(word) << (bits * place) for place, word in enumerate(words))
    assert coded == whole.to_bytes(-(-bits * count // 8), "little")
    back = from_bits(coded, bits, kind)
    assert back.dtype == kind
    assert back.tolist() == words.tolist()
