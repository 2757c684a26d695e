"""The benchmark of convolutions: all contestants train the same."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed (the extra torch)")

from benchmarks import cnn


def test_the_networks_have_the_papers_sizes() -> None:
    sizes = {n: sum(p.numel() for p in cnn.network(n).parameters()) for n in ("cnn", "lenet")}
    assert sizes == {"cnn": 1_663_370, "lenet": 61_706}


def test_everybody_ends_where_the_loop_by_hand_does() -> None:
    found = cnn.measure("lenet", devices=2, each=20, repeats=1)
    assert len(found) == 4
    assert (found["apart"] < 1e-5).all()
    assert np.isfinite(found["ms"]).all()
