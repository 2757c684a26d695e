"""Queries in fewer bits: what they cost, and how far they lie from what was asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedlab.search.queries import QUERY_TYPES, bytes_a_query, pack
from tests.helpers import METRICS, clustered, normal

#: How far a number can move, as a share of the largest in its query.
STEP = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "i8": 0.5 / 127}


@pytest.mark.parametrize("dimensions", [1, 7, 8, 9, 384])
@pytest.mark.parametrize("dtype", QUERY_TYPES)
def test_bytes_are_what_the_formula_says(dtype, dimensions):
    bits = {"f32": 32, "f16": 16, "bf16": 16, "i8": 8, "b1": 1}[dtype]
    scale = 4 if dtype in ("i8", "b1") else 0
    packed = pack(normal(5, dimensions), dimensions, "cosine", dtype)
    assert bytes_a_query(dimensions, dtype) == int(np.ceil(dimensions * bits / 8)) + scale
    assert packed.nbytes == 5 * bytes_a_query(dimensions, dtype)
    assert packed.decoded().shape == (5, dimensions)
    assert len(packed) == 5


@given(
    arrays.arrays(
        np.float32, (3, 11), elements=st.floats(-1000, 1000, width=32, allow_subnormal=False)
    )
)
def test_no_number_moves_by_more_than_its_type_s_step(queries):
    for dtype, step in STEP.items():
        moved = np.abs(pack(queries, 11, "l2sq", dtype).decoded() - queries).max(axis=1)
        # f16 has a finest step of 2**-25 of its own.
        assert (moved <= step * np.abs(queries).max(axis=1) * 1.0001 + 2**-24).all()


def test_signs_and_mean_size_are_the_nearest_that_one_bit_a_number_can_say():
    query = normal(1, 6, seed=3)
    found = pack(query, 6, "l2sq", "b1").decoded()
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 6)).reshape(6, -1).T
    # The best scale of a choice of signs s is s'x / d; all 64 choices are tried.
    scales = signs @ query[0] / 6
    least = (np.square(query[0] - scales[:, None] * signs).sum(axis=1)).min()
    assert np.square(found - query).sum() == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("dtype", QUERY_TYPES)
def test_under_cosine_directions_survive_whatever_their_length(dtype):
    queries = clustered(20, 33, seed=1) * np.float32(10.0) ** np.arange(-15, 5)[:, None]
    decoded = pack(queries, 33, "cosine", dtype).decoded().astype(np.float64)
    cosines = (decoded * queries).sum(axis=1) / (
        np.linalg.norm(decoded, axis=1) * np.linalg.norm(queries.astype(np.float64), axis=1)
    )
    # Signs alone keep a mean cosine of sqrt(2 / pi), .80, with Gaussian numbers.
    assert (cosines > (0.6 if dtype == "b1" else 0.9999)).all()


@pytest.mark.parametrize("metric", METRICS)
def test_f32_is_what_was_asked(metric):
    queries = normal(4, 5)
    np.testing.assert_array_equal(pack(queries, 5, metric, "f32").decoded(), queries)


def test_what_cannot_be_sent_is_refused():
    with pytest.raises(ValueError, match="query is 'f8'; choose one of f32, f16, bf16, i8, b1"):
        pack(normal(1, 3), 3, "cosine", "f8")
    with pytest.raises(ValueError, match="query is 'f8'"):
        bytes_a_query(3, "f8")
    with pytest.raises(ValueError, match="metric is 'dot'"):
        pack(normal(1, 3), 3, "dot", "f32")
    with pytest.raises(ValueError, match="f16 rows hold at most"):
        pack([1e5, 0, 0], 3, "l2sq", "f16")
    with pytest.raises(ValueError, match="length 0"):
        pack([0, 0, 0], 3, "cosine", "b1")
