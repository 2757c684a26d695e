"""Sentences that carry a run's numbers: a template, and values by name."""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter
from typing import Any

import pandas as pd


class _Sentence(Formatter):
    """`str.format`, with words for what holds several values."""

    def format_field(self, value: Any, format_spec: str) -> str:
        several = isinstance(value, pd.DataFrame | pd.Series | Mapping | list | tuple)
        return in_words(value) if several else str(format(value, format_spec))


def filled(text: str, values: Mapping[str, Any]) -> str:
    """Return a template with its values put in, as `str.format` does.

    Parameters
    ----------
    text : str
        Without values it stays as it is, braces and all.
    values : mapping of str to values
        A mapping, Series, frame or list reads as words.

    Raises
    ------
    ValueError
        If the text names a value that was not given.

    Examples
    --------
    >>> filled("{share:.0%} of devices; {ends}.", {"share": 0.2, "ends": {"even": 0.75}})
    '20% of devices; even: 0.75.'
    """
    if not values:
        return text
    try:
        return _Sentence().vformat(text, (), values)
    except KeyError as error:
        raise ValueError(
            f"the text names {error}, which was not given; there are {', '.join(values)}"
        ) from None


def in_words(value: Any) -> str:
    """Return a value as a sentence has it: three digits, or whole numbers from a thousand on.

    Examples
    --------
    >>> in_words({"even": 0.94123, "skewed": [1, 23456.7]})
    'even: 0.941, skewed: 1, 23,457'
    """
    if isinstance(value, pd.DataFrame):
        return "; ".join(f"{in_words(name)} ({in_words(row)})" for name, row in value.iterrows())
    if isinstance(value, Mapping | pd.Series):
        return ", ".join(f"{in_words(name)}: {in_words(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < float("inf") else f"{value:.3g}"
    return str(value)
