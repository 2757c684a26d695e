"""The benchmark of codecs: all of them, on the same changes."""

import numpy as np

from benchmarks import codecs
from fedlab import updates


def test_every_codec_is_measured_on_the_same_changes() -> None:
    found = codecs.measure(devices=2, repeats=1).set_index("codec")
    assert (found[["least", "of training", "most"]] > 0).all(axis=None)
    assert found.loc["bf16", "bits a number"] == 16
    assert found.loc["top-k, 1%", "bits a number"] < 0.5
    assert np.isfinite(found["error"]).all()
    kinds = {type(codec) for codec in codecs.CODECS.values()}
    public = {getattr(updates, name) for name in updates.__all__}
    wanted = {c for c in public if isinstance(c, type) and issubclass(c, updates.codecs.Coding)}
    assert wanted - {updates.Codec} <= kinds
