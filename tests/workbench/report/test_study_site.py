"""A study's report: all runs in an index and a page each, escaped, without a path or a request."""

from __future__ import annotations

import base64
import hashlib
import html as entities
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_output

from fedlab.study import Study, grid, load_runs, results
from fedlab.study.records import Failure, RunRecord
from fedlab.study.scrub import ROOT
from fedlab.workbench.batch.target import notebook_target
from fedlab.workbench.report import study as module
from fedlab.workbench.report.study import write_study_site
from tests.study import work
from tests.workbench.building import notebook, write
from tests.workbench.report import canary
from tests.workbench.report.studies import measured, write_run, write_study

EVIL = "<script>alert(1)</script>\"'&"


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("a study"), 40)
    assert write_study_site(folder, folder / "site") == ()
    return folder / "site"


def cells(made: BeautifulSoup) -> list[dict[str, str]]:
    table = made.select_one("table#runs")
    assert table is not None
    names = [head.text for head in table.select("thead th")]
    rows = [[cell.text for cell in row.select("th, td")] for row in table.select("tbody tr")]
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_the_index_has_every_run_with_its_parameters_metrics_and_error(site: Path) -> None:
    made = soup(site / "index.html")
    frame = load_runs(site.parent)
    rows = cells(made)
    assert len(rows) == 40
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["why"] for row in failed] == ["FloatingPointError: the loss is nan in round 2"]
    counts = [item.text.split() for item in made.select(".counts li")]
    assert counts == [["39", "done"], ["1", "failed"]]
    last = frame[(frame.metric == "test_accuracy") & (frame["round"] == 3)].set_index("run")
    for row in rows:
        if row["status"] == "done":
            told = last.loc[row["run"]]
            assert float(row["alpha"]) == told.alpha
            assert row["algorithm"] == told.algorithm
            assert float(row["test_accuracy"]) == pytest.approx(told.value, rel=1e-3)
            assert row["took (s)"] == "3.25"
    assert "rounds = 3" in made.select(".versions")[0].text
    assert "rounds" not in rows[0]


def test_every_link_leads_to_a_page_and_back(site: Path) -> None:
    links = [str(link["href"]) for link in soup(site / "index.html").select("tbody a")]
    assert len(set(links)) == 40
    for link in links:
        [back] = soup(site / link).select("nav a")
        assert (site / link).parent.joinpath(str(back["href"])).resolve() == site / "index.html"


def csv_of(link: Any) -> pd.DataFrame:
    import io

    head, _, content = str(link["href"]).partition(",")
    assert head == "data:text/csv;charset=utf-8"
    return pd.read_csv(io.StringIO(unquote(content)))


def test_a_page_of_a_run_has_what_it_measured(site: Path) -> None:
    frame = load_runs(site.parent)
    name = str(frame.run[frame.status == "done"].iloc[0])
    made = soup(site / "runs" / f"{name}.html")
    mine = frame[(frame.run == name) & frame["round"].notna()]
    words = made.get_text()
    for said in (name, "Run it again", "from my_study import train", "3.12.3", "numpy 2.3.5"):
        assert said in words
    assert {figure.strong.text for figure in made.select("figure.curve")} == set(mine.metric)  # type: ignore[union-attr]
    [link] = made.select("a[download]")
    table, wide = csv_of(link).set_index("round"), mine.pivot_table("value", "round", "metric")
    np.testing.assert_allclose(table[list(wide)], wide)
    points = str(made.select("polyline")[0]["points"]).split()
    assert [float(point.split(",")[0]) for point in points] == [0, 120, 240]


def test_figures_have_words_and_their_data(site: Path) -> None:
    made = soup(site / "index.html")
    titles = [title.text for title in made.select(".comparison h3")]
    assert titles == [
        "test accuracy by round, by algorithm, mean over alpha as well",
        "test accuracy by parameter",
        "test accuracy against bytes",
    ]
    assert all(len(str(picture["alt"])) > 20 for picture in made.select(".comparison img"))
    links = made.select(".comparison a[download]")
    assert [link["download"] for link in links] == [
        "rounds.csv",
        "parameters.csv",
        "trade-off.csv",
    ]
    frame = load_runs(site.parent)
    known = frame[(frame.metric == "test_accuracy") & (frame.algorithm == "fednova")]
    means = known.groupby(["round", "seed"]).value.mean()
    np.testing.assert_allclose(csv_of(links[0]).set_index(["round", "seed"]).fednova, means)


def test_the_caller_may_say_what_counts(site: Path, tmp_path: Path) -> None:
    write_study_site(site.parent, tmp_path, by="algorithm", better={"final": "higher"})
    titles = [title.text for title in soup(tmp_path / "index.html").select(".comparison h3")]
    assert titles == [
        "test accuracy by round, by algorithm, mean over alpha as well",
        "final by parameter",
    ]
    for wrong in ({"by": "nobody"}, {"better": {"nothing": "higher"}}):
        with pytest.raises(ValueError, match="choose one of"):
            write_study_site(site.parent, tmp_path / "new", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_the_policy_allows_one_script_and_no_request(site: Path) -> None:
    made = soup(site / "index.html")
    [script] = made.select("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    policy = str(made.select("meta[http-equiv]")[0]["content"])
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{digest}'" in policy
    for page in (site / "runs").glob("*.html"):
        made = soup(page)
        assert "script-src" not in str(made.select("meta[http-equiv]")[0]["content"])
        assert made.select("script, iframe, object, link[href^=http], [src^=http]") == []


def test_text_from_runs_is_text(tmp_path: Path) -> None:
    values = {"way": EVIL, EVIL: 1}
    frame = measured(0.1, 0, 3).replace("bytes_up", f"bytes {EVIL}")
    write_run(tmp_path, {**values, "seed": 0}, frame, recorded={EVIL: EVIL})
    write_run(tmp_path, {**values, "seed": 1}, frame, target=EVIL)
    write_run(tmp_path, {**values, "way": "other", "seed": 0}, None, Failure(EVIL, EVIL))
    said = Failure("E", EVIL, 1, EVIL)
    write_run(
        tmp_path, {"way": EVIL, "seed": 3}, None, said, notebook("# A <b>title</b>\n\nB?", "1")
    )
    assert write_study_site(tmp_path, tmp_path / "site") == ()
    pages = [*(tmp_path / "site").rglob("*.html")]
    assert len(pages) == 5
    for page in pages:
        made = soup(page)
        assert len(made.select("script")) == (page.name == "index.html")
        assert "<script>alert" not in page.read_text()
        assert EVIL in made.get_text()
        assert [tag for tag in made.find_all() if any("alert" in name for name in tag.attrs)] == []


SECRETS = ("CANARY", str(canary.ROW), str(canary.KEY), str(ROOT), str(Path.home()))


def test_nothing_of_rows_keys_variables_or_paths_gets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLAB_TEST_TOKEN", "CANARY-variable")
    place = tmp_path / "CANARY-path" / "deep"
    place.mkdir(parents=True)
    study = Study(canary.train, place, grid(fails=["", "path", "file", "dies"]), inputs=())
    monkeypatch.setenv("FEDLAB_TEST_PLACE", str(place))
    study.run(workers=2)
    statuses = study.status().set_index("fails").status.to_dict()
    assert statuses == {"": "done", "path": "failed", "file": "failed", "dies": "failed"}
    assert write_study_site(study, place / "site") == ()
    book = write(
        notebook("# Ask\n\nWhat?", canary.CELL, parameters="seed: int = 0"), place / "a.ipynb"
    )
    asked = Study(notebook_target(book), place / "asked", inputs=())
    asked.run(workers=1)
    assert write_study_site(asked, place / "asked" / "site") == ()
    book.unlink()
    written = [*place.rglob("*.html"), *place.rglob("record.json"), *place.rglob("*.ipynb")]
    assert len(written) == 9 + 4
    for path in written:
        text = entities.unescape(unquote(path.read_text()))
        text = re.sub(r"data:image/[^\"]*", "", text)
        for secret in (*SECRETS, str(tmp_path)):
            assert secret not in text, (path.name, secret)
    index = (place / "site" / "index.html").read_text()
    assert all(name in index for name in ("rows.csv", "no.csv", "last_words.py"))
    assert "rows.csv" in (place / "asked" / "site" / "index.html").read_text()


def test_a_study_tells_more_than_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    study = Study(work.curve, folder, grid(alpha=[0.1, 1.0, 2.0]), seeds=[0])
    Study(work.curve, folder, grid(alpha=[0.1, 1.0]), seeds=[0]).run(workers=2)
    record = next(folder.glob("runs/*/record.json"))
    changed = json.loads(record.read_text())
    changed["source"] = "another"
    record.write_text(json.dumps(changed))
    assert write_study_site(study, tmp_path / "site") == ()
    made = soup(tmp_path / "site" / "index.html")
    assert made.select("h1")[0].text == "tests.study.work:curve"
    rows = {row["run"]: row for row in cells(made)}
    assert sorted(row["status"] for row in rows.values()) == ["done", "missing", "stale"]
    stale = next(name for name, row in rows.items() if row["status"] == "stale")
    assert rows[stale]["why"] == "its own code"
    assert "This run is stale: its own code" in soup(tmp_path / "site/runs" / f"{stale}.html").text
    missing = next(name for name, row in rows.items() if row["status"] == "missing")
    assert not (tmp_path / "site" / "runs" / f"{missing}.html").exists()


def picture(size: int) -> Any:
    cell = new_code_cell("show()")
    cell.outputs = [new_output("display_data", {"image/png": "A" * size, "text/plain": "p"})]
    return cell


def test_a_notebook_has_its_page_and_a_heavy_one_is_made_lighter(tmp_path: Path) -> None:
    light = notebook("# Say\n\nWhat?", picture(4000), "## More")
    heavy = notebook("# Say\n\nWhat?", picture(4000), picture(1_500_000), picture(1_200_000))
    names = [
        write_run(tmp_path, {"seed": seed}, measured(0.1, seed, 3), notebook=node)
        for seed, node in enumerate((light, heavy))
    ]
    assert write_study_site(tmp_path, tmp_path / "site") == ()
    one, two = (tmp_path / "site" / "runs" / f"{name}.html" for name in names)
    made = soup(one)
    assert made.select("h1")[0].text == "Say"
    assert made.title is not None
    assert made.title.text == f"Say: run {names[0]}"
    assert len(made.select("figure img")) == 1
    assert made.select("nav a")[0]["href"] == "../index.html"
    assert "from my_study import train" in made.text
    assert two.stat().st_size < 2_000_000
    assert len(soup(two).select("figure img")) == 2
    assert "they are heavy: 1 outputs" in soup(two).select(".note")[0].text
    assert "An output of 1.5 MB is left out here" in soup(two).text


def test_a_broken_notebook_costs_its_own_place(tmp_path: Path) -> None:
    name = write_run(tmp_path, {"seed": 0}, measured(0.1, 0, 3), notebook=notebook("# A", "1"))
    broken = tmp_path / "runs" / f"{name}-1" / "notebook.ipynb"
    broken.write_text(broken.read_text()[:50])
    [said] = write_study_site(tmp_path, tmp_path / "site")
    assert said.startswith(f"{name}: its notebook can't be shown")
    assert "can't be shown" in soup(tmp_path / "site" / "runs" / f"{name}.html").text


def test_results_that_were_changed_count_as_failed(tmp_path: Path) -> None:
    name = write_run(tmp_path, {"seed": 0}, measured(0.1, 0, 3))
    (tmp_path / "runs" / f"{name}-1" / "results.parquet").write_bytes(b"")
    assert write_study_site(tmp_path, tmp_path / "site") == ()
    [row] = cells(soup(tmp_path / "site" / "index.html"))
    assert (row["status"], row["why"]) == ("failed", "its results are not as it left them")


def test_a_page_above_the_limit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, {"seed": 0}, measured(0.1, 0, 3))
    monkeypatch.setattr(module, "LIMIT", 10_000)
    said = write_study_site(tmp_path, tmp_path / "site")
    assert "index: the page has 0.0 MB" in said


def test_an_empty_study_and_one_without_rounds_have_their_index(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert write_study_site(tmp_path / "empty", tmp_path / "a") == ()
    assert cells(soup(tmp_path / "a" / "index.html")) == []
    frame = pd.DataFrame({"round": [None], "who": ["run"], "metric": ["final"], "value": [0.5]})
    for seed in range(3):
        write_run(tmp_path / "flat", {"seed": seed}, frame, recorded={"final": 0.5})
    assert write_study_site(tmp_path / "flat", tmp_path / "b") == ()
    made = soup(tmp_path / "b" / "index.html")
    assert [row["final"] for row in cells(made)] == ["0.5"] * 3
    assert made.select(".comparison") == []
    with pytest.raises(NotADirectoryError):
        write_study_site(tmp_path / "gone", tmp_path / "c")


def test_pages_of_runs_that_are_gone_go(tmp_path: Path) -> None:
    write_run(tmp_path, {"seed": 0}, measured(0.1, 0, 3))
    pages = tmp_path / "site" / "runs"
    pages.mkdir(parents=True)
    (pages / "0123456789ab.html").write_text("old")
    (pages / "notes.html").write_text("mine")
    write_study_site(tmp_path, tmp_path / "site")
    assert not (pages / "0123456789ab.html").exists()
    assert (pages / "notes.html").exists()


def test_several_histories_of_one_run_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = write_run(tmp_path, {"seed": 0}, measured(0.1, 0, 3))
    place = tmp_path / "runs" / f"{name}-1"
    monkeypatch.setenv(results.RUN_FOLDER, str(place))
    for way in ("fedavg", "fedprox"):
        results.keep(measured(0.1, len(way), 4)[lambda f: f.who == "server"], way=way)
    results.gathered(place, {})
    record = RunRecord.read(place)
    assert record is not None
    RunRecord(**{**record.__dict__, "digests": results.digests(place, ["results.parquet"])}).write(
        place
    )
    assert write_study_site(tmp_path, tmp_path / "site") == ()
    made = soup(tmp_path / "site" / "runs" / f"{name}.html")
    assert len(made.select("figure.curve")[0].select("polyline")) == 2
    [row] = cells(soup(tmp_path / "site" / "index.html"))
    assert row["test_accuracy"] == ""
