"""The server's loops, compiled: what is wrong with an answer, and answers merged into one."""

from __future__ import annotations

import numpy as np
from numba import njit

from fedlab.core.jit import INNER, compiled
from fedlab.index import kernels
from fedlab.index.kernels import after, sift, sort

#: Keys that are compared each with each.
FEW = 16
_NO_KEY = np.uint64(2**64 - 1)


@njit(**INNER)
def _twice(keys):
    for place in range(len(keys)):
        for other in range(place):
            if keys[place] == keys[other]:
                return True
    return False


@compiled()
def flaw(distances, keys, counts, least, most):
    """Return 0 for an answer that can be a true one, or the number of what is wrong with it.

    1: counts outside 0 ... k; 2: NaN or inf; 3: no distance of the metric, which lies between
    `least` and `most`; 4: out of order; 5: a key twice (looked for among `FEW` places
    at most); 6: no key, or what should be empty is not.
    """
    width = distances.shape[1]
    for asked in range(len(counts)):
        count = counts[asked]
        if count < 0 or count > width:
            return 1
        for place in range(width):
            distance, key = distances[asked, place], keys[asked, place]
            if place >= count:
                if key != _NO_KEY or distance != np.inf:
                    return 6
                continue
            if not np.isfinite(distance):
                return 2
            if not least <= distance <= most:
                return 3
            if key == _NO_KEY:
                return 6
            if place:
                before, key_before = distances[asked, place - 1], keys[asked, place - 1]
                if distance < before or (distance == before and key < key_before):
                    return 4
                if key == key_before:
                    return 5
        if width <= FEW and _twice(keys[asked, :count]):
            return 5
    return 0


@compiled(sources=(kernels,))
def merge(distances, keys, counts, asked, best, devices, best_keys, found, unsure):
    """Merge devices' sorted hits, (m, q, w), into the nearest of all, (q, k).

    Parameters
    ----------
    counts, asked : (m, q) int64 arrays
        Hits that each device gave, and how many it was asked for.
    best, devices, best_keys : (q, k) arrays
        Full of inf, m and 2**64 - 1; they are filled in order.
    found : (q,) int64 array
        Filled with how many places are.
    unsure : (m, q) bool array
        Filled with whether a device may hold a hit that it has not given: it gave as many as it
        was asked for, and the last of them comes before the merged k-th.
    """
    k = best.shape[1]
    for query in range(best.shape[0]):
        far, who, which, total = best[query], devices[query], best_keys[query], 0
        for device in range(len(distances)):
            count = counts[device, query]
            total += count
            for place in range(count):
                distance, key = distances[device, query, place], keys[device, query, place]
                if not after(far[0], who[0], which[0], distance, device, key):
                    break  # nor do those that come after it
                sift(distance, device, key, far, who, which, k)
        sort(far, who, which)
        found[query] = min(total, k)
        for device in range(len(distances)):
            count = counts[device, query]
            unsure[device, query] = count == asked[device, query] and (
                total < k
                or after(
                    *(far[k - 1], who[k - 1], which[k - 1]),
                    *(distances[device, query, count - 1], device),
                    keys[device, query, count - 1],
                )
            )
