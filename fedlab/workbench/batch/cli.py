"""The workbench's command line."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

from fedlab.workbench.batch import notebooks
from fedlab.workbench.batch.terminal import say

if TYPE_CHECKING:
    import pandas as pd

    from fedlab.workbench.batch.runner import Settings

FINE, FAILED, WRONG = 0, 1, 2

_EXAMPLES = f"""examples:
  fedlab report
  fedlab run 04 -p alpha 0.1 -p seeds 0,1,2
  fedlab sweep study.yaml --workers 2
  fedlab check 04

exit status: {FINE} all went well; {FAILED} a notebook failed; {WRONG} the command line was wrong"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    given = parser.parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status: int = given.function(given)
    except (ValueError, OSError) as error:
        say(f"{parser.prog}: {error}\n", sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        say("\nstopped; what was finished is kept\n", sys.stderr)
        return 130
    return status


def _joined(words: Sequence[str]) -> list[str]:
    """Write `-p NAME VALUE` as one word: a value may begin with a dash, and argparse forbids it."""
    left, joined = iter(words), []
    for word in left:
        if word in ("-p", "--parameter"):
            given = [*islice(left, 1)]
            if given and "=" not in given[0]:
                given += islice(left, 1)
            word = f"{word}={'='.join(given)}"
        joined.append(word)
    return joined


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{name or 'it'} needs a value: -p NAME VALUE")
    return name, value


def _terminated(number: int, _: object) -> None:
    # Leaving by an exception lets the supervisor end its kernels.
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fedlab",
        description="Run notebooks in batch, over many parameters, and make HTML reports of them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    report = commands.add_parser(
        "report",
        help="run all numbered notebooks and write reports/index.html; or the site of a study",
    )
    report.set_defaults(function=_report)
    report.add_argument(
        "study", nargs="?", type=Path, help="a study's file or folder: write its site instead"
    )
    _add_running(report)
    report.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="notebooks at the same time (default 1)"
    )

    run = commands.add_parser("run", help="run one notebook, and make a page of it")
    run.set_defaults(function=_run, twice=False)
    _add_notebook(run)

    sweep = commands.add_parser("sweep", help="run what is missing of a study")
    sweep.set_defaults(function=_sweep)
    sweep.add_argument("study", type=Path, help="its file (STUDY.yaml)")
    sweep.add_argument("--workers", type=int, metavar="N", help="runs at the same time (default 2)")
    sweep.add_argument(
        "--limit", type=float, metavar="SECONDS", help="stop a run that takes longer"
    )
    sweep.add_argument("--fresh", action="store_true", help="run all of it again")

    status = commands.add_parser("status", help="say how the runs of a study stand, and why")
    status.set_defaults(function=_status)
    status.add_argument("study", type=Path, help="its file (STUDY.yaml)")

    check = commands.add_parser(
        "check", help="run a notebook twice, with other threads and hashes, and compare results"
    )
    check.set_defaults(function=_run, twice=True)
    _add_notebook(check)

    page = commands.add_parser("html", help="make a page of an executed notebook, beside it")
    page.set_defaults(function=_html)
    page.add_argument("notebook", type=Path, help="the path of the executed notebook")

    listing = commands.add_parser("list", help="list the notebooks, their questions and parameters")
    listing.set_defaults(function=_list)

    for command in (report, run, check, listing):
        says = "where the notebooks are (default: the clone's notebooks/)"
        _add_folder(command, "--notebooks", says=says, default=notebooks.ROOT / "notebooks")
    return parser


def _add_notebook(command: argparse.ArgumentParser) -> None:
    command.add_argument("notebook", help="its number (04), its name or its path")
    command.add_argument(
        "-p",
        "--parameter",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME VALUE",
        help="set a parameter (NAME=VALUE does, too); may be given several times; a list is "
        "written 0,1,2",
    )
    _add_folder(command, "-o", "--output", says="where the results go (default: reports/)")
    _add_running(command)


def _add_folder(
    command: argparse.ArgumentParser, *names: str, says: str, default: Path | None = None
) -> None:
    command.add_argument(*names, type=Path, default=default, metavar="FOLDER", help=says)


def _add_running(command: argparse.ArgumentParser) -> None:
    says = "where reports are kept (default: the clone's reports/)"
    _add_folder(command, "--reports", says=says, default=notebooks.ROOT / "reports")
    command.add_argument(
        "--limit",
        type=float,
        default=notebooks.LIMIT_SECONDS,
        metavar="SECONDS",
        help="stop a notebook that takes longer (default %(default)g)",
    )
    command.add_argument(
        "--fresh", action="store_true", help="run again even where nothing has changed"
    )


def _report(given: argparse.Namespace) -> int:
    if given.study is not None:
        return _report_study(given)
    from fedlab.workbench.batch import runner
    from fedlab.workbench.batch.console import Console
    from fedlab.workbench.report.pages import write_report

    runs = [runner.Run.of(notebook) for notebook in notebooks.numbered(given.notebooks)]
    _pull()
    folder = given.reports / "quick"
    settings = _settings(given, folder, given.jobs)
    # The index last: it shows the others' answers.
    runs = [*runs[1:], *runs[:1]] if runs[0].notebook.name.startswith("00") else runs
    recorded = runner.execute(runs, settings, Console(runs, sys.stdout))
    recorded.sort(key=lambda record: record.name)
    _warn(write_report(recorded, folder, given.notebooks, given.reports))
    failed = [record.name for record in recorded if record.error]
    say(f"the report: {given.reports / 'index.html'}\n", sys.stdout)
    if failed:
        say(f"failed: {', '.join(failed)}\n", sys.stderr)
    return FAILED if failed else FINE


def _report_study(given: argparse.Namespace) -> int:
    from fedlab.workbench.batch.studies import read_study
    from fedlab.workbench.report.study import write_study_site

    study = given.study if given.study.is_dir() else read_study(given.study)[0]
    folder = getattr(study, "folder", given.study) / "site"
    _warn(write_study_site(study, folder))
    say(f"the report: {folder / 'index.html'}\n", sys.stdout)
    return FINE


def _sweep(given: argparse.Namespace) -> int:
    from fedlab.workbench.batch.studies import read_study, told_in

    study, how = read_study(given.study)
    how |= {n: v for n in ("workers", "limit") if (v := getattr(given, n)) is not None}
    table = study.run(**how, fresh=given.fresh, tell=told_in(sys.stdout))
    _say_status(table)
    say(f"results: {study.folder}\n", sys.stdout)
    return FAILED if (table.status == "failed").any() else FINE


def _status(given: argparse.Namespace) -> int:
    from fedlab.workbench.batch.studies import read_study

    study, _ = read_study(given.study)
    _say_status(study.status())
    return FINE


def _say_status(table: pd.DataFrame) -> None:
    """Print which runs are not done, and why, and how many are what."""
    given = table.drop(columns=["run", "status", "why", "seconds"])
    varied = given[[name for name in given if len(given[name].unique()) > 1]]
    for place, (run, status, why) in enumerate(table[["run", "status", "why"]].to_numpy()):
        if status != "done":
            about = ", ".join(f"{name}={value}" for name, value in varied.iloc[place].items())
            said = f"{run} ({about}) {status}{f': {why}' if why else ''}"
            say(shorten(said, 200, placeholder=" ...") + "\n", sys.stdout)
    counts = table.status.value_counts().to_dict()
    say(", ".join(f"{count} {status!s}" for status, count in counts.items()) + "\n", sys.stdout)


def _run(given: argparse.Namespace) -> int:
    from fedlab.workbench.batch import runner
    from fedlab.workbench.batch.console import Console
    from fedlab.workbench.report.pages import write_page

    notebook = notebooks.find(given.notebook, given.notebooks)
    run = runner.Run.of(notebook, dict(given.parameter))
    folder = given.output or given.reports / run.label
    settings, console = _settings(given, folder), Console([run], sys.stdout)
    if given.twice:
        record = runner.check(run, settings, console)
    else:
        (record,) = runner.execute([run], settings, console)
    name = runner.stem(folder, record)
    page, executed = folder / f"{name}.html", runner.executed_path(folder, name)
    site = ".." if folder.resolve().parent == given.reports.resolve() else None
    _warn(write_page(executed, page, notebook.path.parent, record, site))
    say(f"page: {page}\nexecuted notebook: {executed}\n", sys.stdout)
    if name != record.name:
        say(f"the run that completed before is kept: {folder / record.name}.html\n", sys.stdout)
    if given.twice:
        say(f"{record.name}: {record.checked}\n", sys.stdout)
        return FINE if record.checked.startswith(runner.SAME) else FAILED
    return FAILED if record.error else FINE


def _html(given: argparse.Namespace) -> int:
    from fedlab.study.records import sha256
    from fedlab.workbench.batch.records import Record
    from fedlab.workbench.report.pages import write_page

    page = given.notebook.with_suffix(".html")
    record = Record.read(given.notebook.with_suffix(".json"))
    if record is not None and record.executed_digest != sha256(given.notebook.read_bytes()):
        record = None
        _warn(["the notebook has changed since it was run; the page is without that run's record"])
    _warn(write_page(given.notebook, page, given.notebook.parent, record, site=None))
    say(f"{page}\n", sys.stdout)
    return FINE


def _list(given: argparse.Namespace) -> int:
    found = notebooks.numbered(given.notebooks)
    for notebook in found:
        say(f"{notebook.name}: {notebook.broken or notebook.question}\n", sys.stdout)
        for parameter in notebook.parameters:
            declared = f"{parameter.name}: {parameter.annotation} = {parameter.default!r}"
            say(f"    {declared}\n", sys.stdout)
    return FAILED if any(notebook.broken for notebook in found) else FINE


def _settings(given: argparse.Namespace, folder: Path, jobs: int = 1) -> Settings:
    from fedlab.workbench.batch.runner import Settings

    return Settings(folder, given.reports / ".cache", jobs, given.limit, given.fresh)


def _pull() -> None:
    """Bring the data here; where that can't be, the notebooks take what is bundled and say so."""
    from fedlab.data import DataError, pull, sources
    from fedlab.data.embedding.minilm import missing_packages

    # Weights that nobody can use here are not worth a long download.
    unused = {"minilm"} if missing_packages() else set()
    for name, source in sources().items():
        if source.bundled or source.extra or name in unused:
            continue
        say(f"data: {name}\n", sys.stdout)
        try:
            pull(name)
        except DataError as error:
            reason = " ".join(str(error).split())
            say(f"data: {name} can't be had, going on without: {reason}\n", sys.stderr)


def _warn(reasons: Sequence[str]) -> None:
    for reason in reasons:
        say(f"{reason}\n", sys.stderr)
