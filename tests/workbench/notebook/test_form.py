"""The form: fields of the right kinds, errors beside them, texts to copy, a table in batch."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt

from fedlab.study.parameters import ParameterError, bind, parameters_of
from fedlab.workbench.batch import cli
from fedlab.workbench.batch.commands import workbench_line
from fedlab.workbench.batch.notebooks import ROOT, Notebook
from fedlab.workbench.batch.studies import read_study
from fedlab.workbench.notebook import cells
from fedlab.workbench.notebook.form import Form, experiment_form
from tests.workbench.building import notebook, write


def study(
    rounds: Annotated[int, Ge(1), Lt(50)] = 20,
    share: Annotated[float, Gt(0), Le(1)] = 0.3,
    lr: float = 0.1,
    most: Annotated[int, Ge(1)] = 3,
    iid: bool = False,
    engine: Literal["flat", "graph"] = "flat",
    note: str = "a | b",
    alphas: list[float] = [0.1, 1.0],  # noqa: B006
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    print(f"training for {rounds} rounds")
    if note == "odd":
        raise KeyError("a bug")
    return {"accuracy": share}


@pytest.fixture(autouse=True)
def live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "is_batch", lambda: False)


def wrong(form: Form, name: str) -> str:
    [row] = [row for row in form.box.children[:-3] if row.children[0] is form.fields[name]]
    return html.unescape(re.sub("<[^>]*>", "", row.children[1].value))


def press(form: Form, name: str) -> None:
    [button] = [b for b in form.box.children[-3].children if b.description == name]
    button.click()


def text(form: Form) -> str:
    shown = form.box.children[-2].value
    [found] = re.findall("<textarea readonly[^>]*>(.*)</textarea>", shown, re.DOTALL)
    return html.unescape(found)


def test_each_parameter_has_the_field_that_fits_it():
    fields = experiment_form(study).fields
    kinds = {name: type(field).__name__ for name, field in fields.items()}
    assert kinds == {
        **{"rounds": "IntSlider", "share": "FloatSlider", "lr": "FloatText", "most": "IntText"},
        **{"iid": "Checkbox", "engine": "Dropdown", "note": "Text", "alphas": "Text"},
        **{"limit": "Text", "seed": "IntText"},
    }
    assert (fields["rounds"].min, fields["rounds"].max) == (1, 49)
    assert (fields["share"].min, fields["share"].max) == (0, 1)
    assert fields["engine"].options == ("flat", "graph")


def test_the_values_are_those_of_the_parameters():
    form = experiment_form(study)
    assert form.values == {p.name: p.default for p in parameters_of(study)}
    for name, value in {"alphas": "1e-3, 2", "limit": "5", "iid": True, "rounds": 49}.items():
        form.fields[name].value = value
    changed = {"alphas": [0.001, 2.0], "limit": 5, "iid": True, "rounds": 49}
    assert form.values == {**{p.name: p.default for p in parameters_of(study)}, **changed}


def test_what_does_not_fit_is_said_beside_its_field():
    form = experiment_form(study)
    form.fields["alphas"].value = "1, <b>"
    assert "parameter alphas: '<b>' is not a number" in wrong(form, "alphas")
    form.fields["most"].value = 0
    assert "0 is not greater than or equal to 1" in wrong(form, "most")
    assert {name for name in form.fields if wrong(form, name)} == {"alphas", "most"}
    with pytest.raises(ParameterError, match="most"):
        _ = form.values
    press(form, "copy as a sweep")
    assert text(form).startswith("Mend this first: parameter most: 0 is not")
    form.fields["alphas"].value, form.fields["most"].value = "1, 2", 1
    assert not wrong(form, "alphas") + wrong(form, "most")
    assert yaml.safe_load(text(form))["grid"]["alphas"] == [[1.0, 2.0]]  # it follows the fields


def test_a_function_is_copied_as_a_sweep(tmp_path: Path):
    form = experiment_form(study)
    form.fields["alphas"].value = "1e-5"
    assert not form.box.children[-2].value
    press(form, "copy as a sweep")
    copied = yaml.safe_load(text(form))
    swept, how = read_study(copied, tmp_path)
    assert how == {"workers": 2}
    wanted = [{**form.values, "seed": seed} for seed in (0, 1, 2)]
    assert [run.parameters for run in swept.runs] == wanted
    assert [b.description for b in form.box.children[-3].children] == ["copy as a sweep", "run"]


def test_what_no_other_process_can_import_is_not_copied():
    def inside(alpha: float = 1.0) -> None: ...

    for module in (__name__, "__main__"):
        inside.__module__ = module
        form = experiment_form(inside)
        press(form, "copy as a sweep")
        assert "a sweep imports its function: put it at the top of a module" in text(form)


SOURCE = "alpha: float = 0.3\nseeds: list[int] = [0, 1]\npair: tuple[int, str] = (1, 'b')"


def test_a_notebook_is_copied_as_a_sweep_and_as_a_command(tmp_path: Path, monkeypatch):
    said = notebook("# Try\n\nWhat?", "print(alpha, seeds, pair)", parameters=SOURCE)
    path = write(said, tmp_path / "n.ipynb")
    monkeypatch.chdir(tmp_path)
    form = experiment_form("n.ipynb")
    form.fields["alpha"].value = 1e-5
    press(form, "copy as a sweep")
    swept, _ = read_study(yaml.safe_load(text(form)), tmp_path / "elsewhere")
    wanted = [{"alpha": 1e-5, "seeds": [seed], "pair": [1, "b"]} for seed in (0, 1, 2)]
    assert [run.parameters for run in swept.runs] == wanted
    press(form, "copy as a command")
    assert text(form) == workbench_line(path.as_posix(), form.values)
    given = cli._parser().parse_args(cli._joined(shlex.split(text(form))[3:]))
    assert bind(Notebook.read(path).parameters, dict(given.parameter), "n") == form.values
    assert [b.description for b in form.box.children[-3].children][1:] == ["copy as a command"]


def test_a_notebook_of_the_clone_is_named_from_there():
    form = experiment_form(ROOT / "notebooks" / "04_see_non_iid.ipynb")
    assert "notebooks/04_see_non_iid.ipynb -p" in form.command()
    assert yaml.safe_load(form.sweep())["notebook"] == "notebooks/04_see_non_iid.ipynb"


def plain(alpha: float = 1.0) -> None: ...


def test_seeds_are_for_those_that_take_them():
    assert "seeds" not in yaml.safe_load(experiment_form(plain).sweep())


def test_run_calls_and_shows_what_comes_of_it(capsys):
    form = experiment_form(study)
    form.fields["rounds"].value = 7
    capsys.readouterr()
    press(form, "run")
    said = capsys.readouterr().out
    assert "training for 7 rounds" in said
    assert "{'accuracy': 0.3}" in said
    form.fields["note"].value = "odd"
    press(form, "run")
    assert "KeyError: 'a bug'" in capsys.readouterr().err
    form.fields["alphas"].value = "?"
    press(form, "run")
    said = capsys.readouterr().out
    assert "parameter alphas" in said
    assert "training" not in said


def test_a_notebook_runs_what_it_is_given(tmp_path: Path):
    path = write(notebook("# Try\n\nWhat?", parameters=SOURCE), tmp_path / "n.ipynb")
    got: list[Any] = []
    form = experiment_form(path, run=lambda **values: got.append(values))
    press(form, "run")
    assert got == [{"alpha": 0.3, "seeds": [0, 1], "pair": (1, "b")}]


def test_a_batch_run_leaves_a_table(monkeypatch, capsys):
    monkeypatch.setattr(cells, "is_batch", lambda: True)
    form = experiment_form(study)
    said = capsys.readouterr().out
    assert re.search(r"limit +int \| None +None", said)
    assert "Annotated[int, Ge(1), Lt(50)]" in said
    assert "Text" not in said
    assert form.values["rounds"] == 20


def test_what_has_no_parameters_that_can_be_read_is_refused():
    def odd(*alphas: float) -> None: ...

    with pytest.raises(ParameterError, match="can't be set by name"):
        experiment_form(odd)
