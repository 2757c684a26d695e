"""Traces of erased rows are counted where an audit found them."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot

from fedlab.erasure import Fingerprints, audit_erasure, compare_ways
from fedlab.workbench.figures.erasure import plot_traces, traces
from tests.helpers import filled, normal


@pytest.fixture(autouse=True)
def canvas():
    mpl.use("agg")
    yield
    pyplot.close("all")


def test_traces_stand_where_each_way_leaves_them(tmp_path):
    index, gone = filled(normal(60, 12), labels=np.arange(60)), [3, 7, 20]
    frame = traces(compare_ways(index, gone, tmp_path))
    assert frame.loc["usearch remove"].tolist() == [0, 0, 3]
    assert frame.loc["remove"].tolist() == [0, 3, 0]
    assert frame.loc["erase"].tolist() == [0, 0, 0]
    fingerprints = Fingerprints.taken(index, gone)
    untouched = traces({"nothing": audit_erasure(index, fingerprints)})
    assert untouched.loc["nothing"].tolist() == [3, 0, 0]


def test_bars_are_as_high_as_the_counts(tmp_path):
    audits = compare_ways(filled(normal(60, 12)), [1, 2], tmp_path)
    _, ax, frame = plot_traces(audits)
    assert frame.equals(traces(audits))
    for bars, kind in zip(ax.containers, frame.columns, strict=True):
        assert [bar.get_height() for bar in bars] == frame[kind].tolist()
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(audits)
