"""The same network by three libraries: the same function of the same parameters."""

import numpy as np
import pytest

from fedlab.workbench.experiments.networks import network

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(20, 5)).astype(np.float32), DRAW.integers(0, 3, 20)


def turned(model, vector, twice):
    parts = model.layout.views(vector).values()
    return np.concatenate([part.T.ravel() if twice else part.ravel() for part in parts])


@pytest.mark.parametrize("library", ["torch", "scikit-learn"])
def test_it_computes_what_the_built_in_one_does(library):
    if library == "torch":
        pytest.importorskip("torch", reason="torch is not installed (the extra torch)")
    ours, theirs = network("fedlab", 5, 4, 3), network(library, 5, 4, 3)
    vector = DRAW.normal(size=ours.layout.size).astype(np.float32)
    other = turned(ours, vector, library == "torch")
    np.testing.assert_allclose(ours.predict(vector, X), theirs.predict(other, X), rtol=1e-5)
    a, b = ours.evaluate(vector, X, Y), theirs.evaluate(other, X, Y)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert a["accuracy"] == b["accuracy"]


def test_another_library_is_refused():
    with pytest.raises(ValueError, match="no library is called 'jax'"):
        network("jax", 5, 4, 3)
