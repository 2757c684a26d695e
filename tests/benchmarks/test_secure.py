"""The cost of secure sums: exact bytes, every case, and sums that are checked."""

from __future__ import annotations

import json

import pytest

from benchmarks.secure import cost, main
from fedlab.privacy.secure_aggregation import SecureExchange


def test_the_command_measures_all_cases_and_writes_them_to_a_file(tmp_path, capsys):
    target = tmp_path / "made" / "secure.json"
    few = ["--devices", "4", "60", "--parameters", "10", "30", "--all", "4", "--json", str(target)]
    assert main(few) == 0
    found = json.loads(target.read_text())
    cases = [(one["devices"], one["parameters"], one["neighbours"]) for one in found]
    assert cases == [(4, 10, 3), (4, 30, 3), (60, 10, 40), (60, 30, 40)]
    assert [one["dropped"] for one in found] == [0, 0, 3, 3]
    assert found[0]["up"] == 64 + 3 * 88 + 30 + 4 * 36
    assert found[0]["ratio"] == pytest.approx(found[0]["up"] / 40)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4 + 1
    with pytest.raises(SystemExit):
        main(["--drops", "0.5"])


def test_a_wrong_sum_is_noticed(monkeypatch):
    finish = SecureExchange.finish
    monkeypatch.setattr(SecureExchange, "finish", lambda s, g: [finish(s, g)[0] + 1])
    with pytest.raises(RuntimeError, match="the sum over 5 devices is wrong"):
        cost(5, 10, False, 0.0)
