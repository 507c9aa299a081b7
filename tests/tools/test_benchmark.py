"""The benchmark command runs, checks that both forms agree, and writes its table."""

import runpy
from pathlib import Path

import pytest

from weakseg.safe_io import read_json

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    import benchmarks

    return benchmarks


def test_pq_prints_and_writes_a_row_a_size(benchmarks, tmp_path, monkeypatch, capsys):
    arguments = "pq --heights 24 48 --images 3 --pairs 2 --output".split()
    monkeypatch.setattr("sys.argv", ["benchmark.py", *arguments, str(tmp_path / "pq.json")])
    runpy.run_path(TOOLS / "benchmark.py", run_name="__main__")
    printed = capsys.readouterr().out
    assert "| pq 64x48" in printed and "median_ratio" in printed
    rows = read_json(tmp_path / "pq.json")
    assert [row["name"] for row in rows] == ["pq 32x24", "pq 64x48"]
    for row in rows:
        assert row["pairs"] == 2 and 0 < row["min_ratio"] <= row["median_ratio"] <= row["max_ratio"]
    assert {"literal_exponent", "our_exponent"} <= rows[-1].keys()


def test_runs_alternate_after_a_checked_warm_up(benchmarks):
    calls = []
    row = benchmarks.compare(
        "x", lambda: calls.append("a"), lambda: calls.append("b"), lambda a, b: calls.append("c"), pairs=3
    )
    assert "".join(calls) == "abc" + "ab" * 3
    assert row["name"] == "x" and row["pairs"] == 3


def test_the_ratio_is_of_the_pair(benchmarks, monkeypatch):
    clock = iter([0, 6, 6, 8, 10, 14, 14, 15, 20, 22, 22, 23])  # pairs of 6 / 2, 4 / 1 and 2 / 1 seconds
    monkeypatch.setattr(benchmarks.time, "perf_counter", lambda: next(clock))
    row = benchmarks.compare("x", lambda: 1, lambda: 1, lambda a, b: None, pairs=3)
    assert (row["median_ratio"], row["min_ratio"], row["max_ratio"]) == (3, 2, 4)
    assert (row["literal_seconds"], row["our_seconds"]) == (4, 1)


def test_forms_that_disagree_are_not_timed(benchmarks):
    def refuse(literal, ours):
        raise ValueError(f"{literal} is not {ours}")

    with pytest.raises(ValueError, match="1 is not 2"):
        benchmarks.compare("x", lambda: 1, lambda: 2, refuse)


def test_growth_is_the_exponent(benchmarks):
    assert benchmarks.growth([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
