"""Vectors that tests of the leak meter share."""

import numpy as np

from fedlab.leaks import Scene


def units(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def skewed(rows, dimensions, seed=0):
    """Unit vectors whose axes can be told apart: unlike variances, skewed distributions."""
    draw = np.random.default_rng(seed)
    sizes = 1 / np.sqrt(1 + np.arange(dimensions))
    return units((draw.gamma(1.0, size=(rows, dimensions)) - 0.5) * sizes)


def independent(rows, dimensions, seed=0):
    return units(np.random.default_rng(seed).normal(size=(rows, dimensions)))


def scene(defence, vectors=None, seed=0, k=10):
    everything = skewed(820, 12, seed) if vectors is None else vectors
    inside, outside = np.array_split(everything[20:], 2)
    return Scene(defence, inside, outside, everything[:20], k, seed)


def measured(attack, where):
    return {(m.attacker, m.metric): m for m in attack.measure(where)}
