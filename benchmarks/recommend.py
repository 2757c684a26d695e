"""How well recommenders find what is watched next: `python -m benchmarks recommend`.

The ways, their settings and the judge are those of notebook 17, whose first cells this command
runs with all users of MovieLens-100k and more rounds. Each user's last film is held out; among 100
films, or among all that the user has not had, it is to be ranked among the first ten. Intervals are
Student's over seeds: other first vectors, cohorts, negatives, and samples of 100.

With ``--as-authors``, devices never draw the held-out film as a negative, as in the programs of
PFedRec and FedRAP: it shows what that does to the numbers, and is no way to train, since no device
knows what its user will watch. Methods that see everybody's rows stand aside then.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedlab.metrics import mean_interval
from fedlab.workbench.batch import notebooks

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "17_recommend_without_sharing_ratings.ipynb"
MEASURES = ("HR, of 100", "nDCG, of 100", "HR, of all", "nDCG, of all", "strangers", "coverage")


def defined(**parameters: Any) -> dict[str, Any]:
    """Return what the notebook's cells define, up to its judge, under other parameters."""
    node, space = notebooks.load(NOTEBOOK), dict[str, Any]()
    notebooks.inject(node, parameters)
    for place, cell in enumerate(node.cells):
        if cell.cell_type == "code" and "judged" not in space:
            exec(compile(cell.source, f"{NOTEBOOK.stem}, cell {place}", "exec"), space)
    return space


def measured(space: dict[str, Any], method: str, seed: int, spare: bool = False) -> dict[str, Any]:
    """Return how good one method is with one seed, and what a device sends in a round."""
    began, sent = time.perf_counter(), 0.0
    if method in space["baselines"]:
        table = space["baselines"][method](seed)
    else:
        model, algorithm, given = space["ways"][method]
        federation = space["learn"](model, algorithm, seed, spare=spare, **given)
        table = space["scores"](federation)
        sent = federation.history.series("bytes_up").mean() / space["cohort"] / 1e3
    told = space["judged"](table, seed)[list(MEASURES)].to_dict()
    told |= {"kB": sent, "seconds": time.perf_counter() - began}
    return {"method": method, "seed": seed, **told}


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each method: means, with Student's intervals over seeds if there are any."""
    several = len(frame.seed.unique()) > 1

    def told(values: pd.Series) -> str:
        return f"{mean_interval(values):.3f}" if several else f"{values.iloc[0]:.3f}"

    groups = frame.groupby("method", sort=False)
    costs = groups[["kB", "seconds"]].mean().round(1)
    return groups[list(MEASURES)].agg(told).join(costs)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks recommend", description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--begin", type=int, default=0, help="the first seed")
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--cohort", type=int, default=200, help="devices of a round")
    parser.add_argument("--passes", type=int, default=15, help="of the central run, over all users")
    parser.add_argument("--users", type=int, default=943)
    parser.add_argument("--strangers", type=int, default=93, help="of these, who take no part")
    parser.add_argument("--size", type=int, default=16, help="numbers of a vector")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="these methods alone")
    parser.add_argument("--as-authors", action="store_true", help="spare the film that is held out")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/recommend.csv"))
    given = parser.parse_args(arguments)
    names = ("rounds", "cohort", "passes", "users", "strangers", "size")
    space = defined(**{name: getattr(given, name) for name in names})
    known = [*([] if given.as_authors else space["baselines"]), *space["ways"]]
    methods = given.only or known
    if unknown := [method for method in methods if method not in known]:
        raise ValueError(f"no method is called {unknown[0]!r}; there are {', '.join(known)}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = list[dict[str, Any]]()
    for seed in range(given.begin, given.begin + given.seeds):
        for method in methods:
            rows.append(measured(space, method, seed, spare=given.as_authors))
            told = rows[-1]
            print(f"seed {seed}, {method}: {told[MEASURES[0]]:.3f}", file=sys.stderr, flush=True)
            pd.DataFrame(rows).to_csv(given.out, index=False)  # what was done outlives an interrupt
    frame = pd.DataFrame(rows)
    members = given.users - given.strangers
    print(f"{members} members, {given.strangers} strangers, {given.seeds} seeds (95% over seeds)")
    with pd.option_context("display.width", 250, "display.max_columns", None):
        print(table(frame).to_string())
    print(f"all rows: {given.out}")
    return 0
