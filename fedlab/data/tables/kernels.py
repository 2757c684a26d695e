"""The compiled look at a CSV file: where its rows begin, and how many fields each has."""

from __future__ import annotations

import numpy as np

from fedlab.core.jit import compiled

LINE, RETURN, QUOTE = 10, 13, 34


@compiled()
def scanned(content, sep):
    """Return start, line and number of fields of each row that isn't blank, and where zeros lead.

    Parameters
    ----------
    content : (n,) bytes in UTF-8
    sep : the separator's byte

    Returns
    -------
    rows : (rows, 3) whole numbers
    coded : truth values, by place in a row: whether a field there, but in the first row, has zeros
    line : the line in which it ended
    wrong : 0, or 1 for a quote that doesn't end, or 2 for one that ends too early
    """
    size, rows, coded = len(content), np.empty((1024, 3), np.int64), np.zeros(1024, np.bool_)
    stops = np.zeros(256, np.bool_)
    stops[sep] = stops[LINE] = stops[RETURN] = True
    row, line, at, most = 0, 1, 0, max(sep, RETURN)
    while at < size:
        begin, first, fields = at, line, 0
        while True:
            quoted = at < size and content[at] == QUOTE
            at += quoted
            here = at
            while here < size and (content[here] in (32, 9)) and content[here] != sep:
                here += 1
            blank = fields == 0 and not quoted
            blank &= here == size or content[here] in (LINE, RETURN)
            here += here < size and content[here] in (43, 45)  # a sign
            if row and here + 1 < size and content[here] == 48 and 48 <= content[here + 1] <= 57:
                while fields >= len(coded):
                    coded = np.concatenate((coded, np.zeros_like(coded)))
                coded[fields] = True
            while quoted:
                while at < size and content[at] != QUOTE:
                    alone = at + 1 == size or content[at + 1] != LINE
                    line += content[at] == LINE or (content[at] == RETURN and alone)
                    at += 1
                if at == size:
                    return rows[:row], coded, line, 1
                quoted = at + 1 < size and content[at + 1] == QUOTE  # one within, doubled
                at += 1 + quoted
                if not quoted and at < size and not stops[content[at]]:
                    return rows[:row], coded, line, 2
            for here in range(at, size):
                if content[here] <= most and stops[content[here]]:
                    at = here
                    break
            else:
                at = size
            fields += 1
            if at == size or content[at] != sep:
                break
            at += 1
        at += 1 + (at + 1 < size and content[at] == RETURN and content[at + 1] == LINE)
        line += 1
        if not blank:
            if row == len(rows):
                rows = np.concatenate((rows, rows))
            rows[row] = begin, first, fields
            row += 1
    return rows[:row], coded, line, 0
