"""A form for an experiment, made of a notebook's parameters or of a function's."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args, get_origin

import ipywidgets
import pandas as pd
import yaml
from IPython.display import display
from ipywidgets import HTML, HBox, Output, VBox

from fedlab.study.parameters import Parameter, ParameterError, parameters_of
from fedlab.workbench.batch.commands import workbench_line
from fedlab.workbench.batch.notebooks import ROOT, find
from fedlab.workbench.notebook import cells, widgets

Target = str | os.PathLike[str] | Callable[..., Any]


def experiment_form(target: Target, run: Callable[..., Any] | None = None) -> Form:
    """Show a form for the parameters of a notebook or a function; in batch, a table of them.

    Parameters
    ----------
    target : path-like or function
        A notebook by path, or by number or name as in ``fedlab run``: its parameters cell is read,
        and never executed. Of a function, the signature is.
    run : function, optional
        What "run" calls with the values by name, and shows what it prints, returns or raises. By
        default the target, if that is a function; without one there is no such button.

    Returns
    -------
    Form
        `Form.values` are the values that stand in it.

    Raises
    ------
    fedlab.study.parameters.ParameterError
        If the parameters can't be read.
    FileNotFoundError
        If there is no such notebook.

    Examples
    --------
    ::

        form = experiment_form("04_see_non_iid.ipynb")
        form.values  # in a later cell: {'alpha': 0.3, ...}
    """
    form = Form(target, run)
    shown = pd.DataFrame([*form.parameters]) if cells.is_batch() else form.box
    display(shown)  # type: ignore[no-untyped-call]
    return form


class Form:
    """Fields for parameters, with what is wrong with them; made by `experiment_form`.

    Attributes
    ----------
    parameters : tuple of Parameter
    fields : dict of str to Widget
        By name; set a field's ``value`` to fill it in.
    box : VBox
        The widget.
    """

    def __init__(self, target: Target, run: Callable[..., Any] | None = None) -> None:
        if callable(target):
            run, self.parameters = run or target, parameters_of(target)
            self._names = {"function": f"{target.__module__}:{target.__qualname__}"}
        else:
            notebook = find(os.fspath(target), ROOT / "notebooks")
            path, self.parameters = notebook.path.resolve(), notebook.parameters
            shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            self._names = {"notebook": shown.as_posix()}
        self.fields = {parameter.name: _field(parameter) for parameter in self.parameters}
        self._write: Callable[[], str] = str
        self._text, output = HTML(), Output()
        rows = [HBox([self.fields[p.name], self._checked(p)]) for p in self.parameters]
        copies = {"copy as a sweep": self.sweep}
        copies |= {} if callable(target) else {"copy as a command": self.command}
        buttons = [widgets.button(n, "copy", partial(self._show, w)) for n, w in copies.items()]
        if run is not None:
            call = partial(widgets.told, output, partial(self._call, run))
            buttons += [widgets.button("run", "play", call)]
        self.box = VBox([*rows, HBox(buttons), self._text, output])

    @property
    def values(self) -> dict[str, Any]:
        """What stands in the fields, by name, as the annotations want it.

        Raises
        ------
        ParameterError
            If something doesn't fit.
        """
        return {p.name: p.convert(self.fields[p.name].value) for p in self.parameters}

    def sweep(self) -> str:
        """Return a sweep for ``fedlab sweep``, of these values and three seeds, to be widened."""
        if {"__main__", "<locals>"} & {*re.split("[:.]", self._names.get("function", ""))}:
            raise ParameterError("a sweep imports its function: put it at the top of a module")
        grid = {n: [value] for n, value in self.values.items() if n not in ("seed", "seeds")}
        seeds = {"seeds": [0, 1, 2]} if len(grid) < len(self.parameters) else {}
        made = {**self._names, "grid": grid, **seeds, "workers": 2}
        return str(yaml.safe_dump(made, sort_keys=False, default_flow_style=None))

    def command(self) -> str:
        """Return the line that runs the notebook once, with exactly these values."""
        return workbench_line(self._names["notebook"], self.values)

    def _checked(self, parameter: Parameter) -> HTML:
        """Return what tells what is wrong with a field, beside it."""
        field, wrong = self.fields[parameter.name], HTML()

        def check(_: object) -> None:
            try:
                parameter.convert(field.value)
                wrong.value = ""
            except ParameterError as error:
                wrong.value = f"<p role='alert' style='color: #B00'>{html.escape(str(error))}</p>"
            self._show(self._write)

        field.observe(check, "value")
        return wrong

    def _show(self, write: Callable[[], str]) -> None:
        """Show a text to be copied: the clipboard is the browser's, and the kernel has none."""
        self._write = write
        try:
            text = write()
        except ParameterError as error:
            text = f"Mend this first: {error}"
        self._text.value = text and (
            "<label>Ctrl-C copies it:<br><textarea readonly onfocus='this.select()' cols='88' "
            f"rows='{sum(1 + len(line) // 80 for line in text.splitlines())}'>"
            f"{html.escape(text)}</textarea></label>"
        )

    def _call(self, run: Callable[..., Any]) -> None:
        if (result := run(**self.values)) is not None:
            display(result)  # type: ignore[no-untyped-call]


def _field(parameter: Parameter) -> ipywidgets.Widget:
    plain, bounds = parameter.kind
    look = {"value": parameter.default, "description": parameter.name}
    look |= {"style": {"description_width": "8em"}}
    if plain is bool:
        return ipywidgets.Checkbox(**look, indent=True)
    if get_origin(plain) is Literal:
        return ipywidgets.Dropdown(options=get_args(plain), **look)
    if plain in (int, float):
        name, edge = ("Int", 1) if plain is int else ("Float", 0)
        low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
        if low is None or high is None:
            return getattr(ipywidgets, f"{name}Text")(**look)
        look |= {"min": low + edge * ("gt" in bounds), "max": high - edge * ("lt" in bounds)}
        look |= {"step": edge or (high - low) / 100, "readout_format": ".9"}
        return getattr(ipywidgets, f"{name}Slider")(**look)
    look["value"] = str(parameter.default)
    return ipywidgets.Text(placeholder=parameter.annotation, **look)
