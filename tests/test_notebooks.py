"""The notebooks: one spine, no outputs in their sources, runnable by papermill alone."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from fedlab.core.extras import missing
from fedlab.workbench.report import outputs

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Small parameters, so that a test run takes seconds.
SMALL = {
    "00_index": {},
    "01_start_a_federation": {"devices": 5, "rounds": 30},
    "02_search_a_device": {"rows": 3000, "queries": 100},
    "03_diagnose_across_hospitals": {"folds": 3, "repeats": 1, "rounds": 5, "draws": 200},
    "04_see_non_iid": {"alphas": [100.0, 0.3], "seeds": [0, 1], "rounds": 12, "cohort": 4},
    "05_compare_algorithms": {
        "algorithms": ["fedavg", "scaffold"],
        "seeds": [0, 1],
        "prox_rounds": 6,
        "rounds": 20,
        "alpha": 0.5,
    },
    "06_personalise_with_neighbours": {
        "seeds": [0, 1],
        "devices": 6,
        "strangers": 2,
        "cohort": 3,
        "rounds": 4,
        "epochs": 1,
        "ks": [5],
        "sizes": [20],
        "dtypes": ["i8"],
    },
    "07_choose_samples_by_similarity": {
        "seeds": [0, 1],
        "devices": 5,
        "unseen": 2,
        "cohort": 3,
        "rounds": 6,
        "alpha": 1.0,
        "queries": 10,
    },
    "08_seal_and_erase": {"trials": 3, "kills": 1, "digits": 600, "rounds": 4},
    "09_search_across_devices": {
        "dimensions": 32,
        "queries": 60,
        "messages": 800,
        "devices": 8,
        "firsts": [1, 4],
        "asks": [1, 4],
    },
    "10_measure_what_leaks": {"rows": 1000, "betas": [1.0, 8.0], "pairs": [16, 64], "seeds": [0]},
    "11_choose_devices": {
        "seeds": [0, 1],
        "devices": 20,
        "cohort": 3,
        "candidates": 5,
        "hours": 1.0,
        "target": 0.3,
        "hidden": 8,
    },
    "12_shrink_updates": {
        "codecs": ["cast", "QSGD"],
        "seeds": [0, 1],
        "devices": 6,
        "cohort": 3,
        "cohorts": [6, 3],
        "rounds": 5,
        "target": 0.4,
        "hidden": 8,
    },
    "13_keep_updates_secret": {
        "epsilons": [2.0, 32.0],
        "clips": [0.3, 3.0],
        "sums": [3, 10],
        "counts": [50, 100],
        "seeds": [0, 1],
        "devices": 60,
        "rounds": 5,
    },
    "14_withstand_attacks": {
        "lies": ["IPM", "back door"],
        "defences": ["median", "Bulyan", "FLTrust"],
        "seeds": [0, 1],
        "devices": 10,
        "shares": [0.1, 0.3],
        "rounds": 3,
        "hidden": 8,
    },
    "15_run_a_study": {"seeds": [0, 1], "rounds": 3, "folder": "../../.cache/study"},
    "16_tune_a_large_model": {
        "subjects": ["sci.med", "sci.space"],
        "seeds": [0, 1],
        "length": 16,
        "rows": [2, 1, 1],
        "rounds": 1,
        "stories": [32, 1],
    },
    "17_recommend_without_sharing_ratings": {
        "seeds": [0, 1],
        "users": 120,
        "strangers": 20,
        "cohort": 30,
        "rounds": 3,
        "passes": 1,
        "sums": [1, 3, 10],
    },
    "18_tune_the_federation": {
        "devices": 12,
        "cohort": 4,
        "rounds": 24,
        "each": 3,
        "judges": [1, 12],
        "epsilons": [10.0],
        "seeds": [0, 1],
    },
    "19_take_it_to_a_network": {"rounds": 1, "queries": 5},
}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path):
    return [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]


def test_no_number_stands_twice():
    # The series has its numbers; those that are still to be written leave a gap.
    assert len({path.name[:2] for path in NOTEBOOKS}) == len(NOTEBOOKS)
    assert set(SMALL) == {path.stem for path in NOTEBOOKS}
    assert all(re.fullmatch(r"\d\d_[a-z_]+", path.stem) for path in NOTEBOOKS)


@each
def test_sources_carry_no_outputs(path):
    node = json.loads(path.read_text())
    assert set(node["metadata"]) == {"kernelspec", "language_info"}
    assert node["metadata"]["kernelspec"]["name"] == "python3"
    nbformat.validate(node)
    for cell in code(path):
        assert (cell.outputs, cell.execution_count) == ([], None)
        assert set(cell.metadata) <= {"tags"}


@each
def test_the_spine(path):
    texts, cells = prose(path), code(path)
    title, question, rest = texts[0].split("\n\n")[:3]
    assert title.startswith("# ")
    assert question.endswith("?")
    assert "Reading time" in rest
    assert any(text.startswith("## What we learned") for text in texts)
    assert "cells.answer(" in cells[-1].source
    assert "main=True" in "".join(cell.source for cell in cells)
    imports = [cell for cell in cells if re.search(r"^(import|from) ", cell.source, re.MULTILINE)]
    assert len(imports) == 1, "one import cell"
    assert re.search(r'\ncells\.begin\((extra="\w+")?\)$', imports[0].source)


@each
def test_cells_are_short_and_explained(path):
    lines = sorted(len(cell.source.splitlines()) for cell in code(path))
    assert lines[len(lines) // 2] <= 6
    assert lines[-1] <= 15
    words = sum(len(text.split()) for text in prose(path))
    assert 5 <= words / sum(lines) <= 12
    for cell in code(path):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < 12


@each
def test_every_figure_has_a_text_alternative_and_says_what_to_see(path):
    source = "".join(cell.source for cell in code(path))
    assert source.count("cells.show(") == source.count("alt=")
    shown = [place for place, cell in enumerate(read(path).cells) if "cells.show(" in cell.source]
    for place in shown:
        after = "".join(cell.source for cell in read(path).cells[place + 1 : place + 3])
        assert "What to see" in after


@each
def test_parameters_are_annotated_and_described(path):
    tagged = [cell for cell in code(path) if "parameters" in cell.metadata.get("tags", [])]
    if path.stem == "00_index":
        assert tagged == []
        return
    [cell] = tagged
    names = []
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.AnnAssign), "name: type = default"
        ast.literal_eval(statement.value)
        names.append(statement.target.id)
    table = next(text for text in prose(path) if text.startswith("| parameter"))
    assert all(f"`{name}`" in table for name in names)


@each
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", "\n".join(prose(path))):
        if not target.startswith("http"):
            assert (path.parent / target).is_file(), target


@each
def test_plain_papermill_runs_it(path, tmp_path):
    out = tmp_path / "out.ipynb"
    given = json.dumps(SMALL[path.stem])
    command = [sys.executable, "-m", "papermill", path, out, "--no-progress-bar", "-y", given]
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    node = read(out)
    assert outputs.answer(node)
    extra = outputs.lacking(node)
    assert (outputs.main_figure(node) is None) == bool(extra)
    if extra:
        assert missing(extra)
        assert f"EXTRAS={extra}" in outputs.answer(node)
    warned = [
        output.text
        for cell in node.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stderr"
    ]
    assert warned == []
