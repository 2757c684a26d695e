"""Attacks against defences: every pair on the same devices, attackers, start and batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from fedlab.federation.federation import Federation
from fedlab.updates import ChainError


def withstand(
    make: Callable[[int], Mapping[str, Any]],
    attacks: Mapping[str, Callable[[Any, float, int], Mapping[str, Any]]],
    defences: Mapping[str, Callable[[int], Mapping[str, Any]]],
    measure: Callable[[Federation], Mapping[str, float]],
    *,
    shares: Sequence[float],
    seeds: Sequence[int],
    rounds: int,
) -> pd.DataFrame:
    """Run every attack against every defence, for each share of attackers and each seed.

    Parameters
    ----------
    make : function of a seed
        Returns what every `Federation` takes: ``devices``, ``model``, ``test`` and so on.
    attacks : mapping of name to function
        Of devices, share and seed; returns what the attack changes of it: ``updates``, or
        ``devices``.
    defences : mapping of name to function
        Of the number of attackers that is to be expected; returns ``aggregator``, or stages that
        follow those of the attack.
    measure : function
        Of the federation after its last round; returns numbers by name.
    shares, seeds : sequences
    rounds : int

    Returns
    -------
    DataFrame
        ``attack``, ``defence``, ``share``, ``seed``, and what was measured. Pairs that are refused,
        since a cohort has too few devices, are left out.
    """
    rows = list[dict[str, Any]]()
    for seed in seeds:
        made = {"seed": seed, "evaluate_every": rounds, **make(seed)}
        count = len(made["devices"])
        for share, attack in product(shares, attacks):
            attacked = attacks[attack](made["devices"], share, seed)
            for defence in defences:
                defended = defences[defence](round(share * count))
                stages = [*attacked.get("updates", ()), *defended.get("updates", ())]
                try:
                    run = Federation(**{**made, **attacked, **defended, "updates": stages})
                except ChainError:
                    continue
                list(run.rounds(rounds))
                told = {"attack": attack, "defence": defence, "share": share, "seed": seed}
                rows.append(told | dict(measure(run)))
    return pd.DataFrame(rows)
