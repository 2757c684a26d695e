"""Compiled draws equal NumPy's own Philox, and the shuffle is Durstenfeld's."""

import numpy as np
import pytest

from fedlab import LocalSGD
from fedlab.core.randomness import Purpose, generator
from fedlab.training.compiled.shuffle import draw_words, shuffle


def order_at(rows, seed, round, device, part):
    words, order = np.empty(rows + 3, np.uint64), np.arange(rows)
    address = (seed, int(Purpose.BATCHES), round, device, part)
    draw_words(words, rows, *map(np.uint64, address))
    shuffle(order, rows, words)
    return words[:rows], order


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 60, 1001])
def test_words_are_those_of_numpy_s_generator(rows):
    device = 2**64 - 3
    words, _ = order_at(rows, 2**64 - 1, 7, device, 2)
    draw = generator(2**64 - 1, Purpose.BATCHES, round=7, device=device, part=2)
    np.testing.assert_array_equal(words, draw.bit_generator.random_raw(rows))


@pytest.mark.parametrize("rows", [2, 3, 17, 600])
def test_the_compiled_order_is_the_plain_one(rows):
    local = LocalSGD(epochs=3, batch_size=1)
    plain = np.concatenate(list(local.batches(rows, seed=5, round=9, device=4))).reshape(3, rows)
    for epoch in range(3):
        np.testing.assert_array_equal(order_at(rows, 5, 9, 4, epoch)[1], plain[epoch])


def test_each_order_of_four_rows_comes_equally_often():
    draws = 24_000
    orders = np.array([order_at(4, 0, number, 1, 0)[1] for number in range(draws)])
    _, seen = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert len(seen) == 24
    # chi-squared with 23 degrees of freedom: above 49.7 once in a thousand
    assert np.square(seen - draws / 24).sum() / (draws / 24) < 49.7
