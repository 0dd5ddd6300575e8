"""The headline benchmark runs, goes on where it was interrupted, and counts rightly."""

import gc
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

pytestmark = pytest.mark.tensorflow

FOLDER = Path(__file__).parents[1] / "benchmarks" / "time_to_accuracy"


@pytest.fixture(scope="module")
def benchmark():
    names = {p.stem for p in FOLDER.glob("*.py")}
    sys.path.insert(0, str(FOLDER))
    import race
    import rates
    import report
    import run
    import workloads

    yield {"race": race, "report": report, "run": run, "rates": rates, "workloads": workloads}
    sys.path.remove(str(FOLDER))
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.filterwarnings("ignore")
def test_quick_mode_runs_and_goes_on_where_it_was(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark["rates"], "GRID", (1e-3, 1e-2))
    # Before every race, for the clock's sake; among a thousand tests it takes longer than a race.
    monkeypatch.setattr(gc, "collect", lambda *generation: 0)
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--results", str(tmp_path)])
    benchmark["run"].main()
    shown = capsys.readouterr().out
    assert "zero tuning against Keras's defaults" in shown
    assert "torch" in shown
    races = tmp_path / "races.jsonl"
    lines = races.read_text().splitlines()
    assert len(lines) == 9  # 3 seeds of 3 contestants.
    assert all(json.loads(line)["cpu"] > 0 for line in lines)
    for name in ("profile.png", "time_to_target.png", "table.txt", "tuning.json"):
        assert (tmp_path / name).stat().st_size > 100
    races.write_text("\n".join(lines[:-1]) + "\n")
    run, workload = benchmark["run"], benchmark["workloads"].SMOKE["W0"]
    book = run.Book(tmp_path)
    racers = run.entrants("W0", workload, book, quick=True, untuned=False)  # Nothing is tuned anew.
    for seed in range(3):
        run.race(seed, "W0", workload, racers, book)
    again = races.read_text().splitlines()
    assert again[:-1] == lines[:-1]
    key = [(r["contestant"], r["seed"]) for r in map(json.loads, (again[-1], lines[-1]))]
    assert key[0] == key[1]


def test_targets_once_frozen_stay(benchmark, tmp_path):
    book = benchmark["run"].Book(tmp_path)
    values = iter((0.9, 0.5))
    assert [book.once("targets.json", "W1", lambda: next(values)) for _ in range(2)] == [0.9, 0.9]
    assert book.read("targets.json") == {"W1": 0.9}


@pytest.mark.parametrize(("hits", "num"), [(20, 20), (0, 3), (13, 20)])
def test_intervals_of_hit_rates_are_wilsons(benchmark, hits, num):
    expected = binomtest(hits, num).proportion_ci(method="wilson")
    assert benchmark["report"].wilson(hits, num) == pytest.approx(tuple(expected), abs=1e-3)


def test_ratios_are_paired_by_seed_and_misses_are_named(benchmark):
    def line(contestant, seed, cpu, hit=True):
        shared = {"workload": "W1", "steps": 1, "wall": cpu, "test": 0.9}
        return {**shared, "contestant": contestant, "seed": seed, "cpu": cpu, "hit": hit}

    report = benchmark["report"]
    lines = [line(report.DEFAULTS, s, c) for s, c in enumerate((8.0, 2.0))]
    lines += [line(report.ZERO, s, c, hit=s > 0) for s, c in enumerate((2.0, 2.0))]
    races = report.Races(lines)
    assert races.ratios("W1", report.DEFAULTS, report.ZERO) == [4.0, 1.0]
    assert report.geometric([4.0, 1.0])[0] == pytest.approx(2.0)
    assert "void on W1" in report.summary_of(races)


def test_a_hit_is_two_validations_running(benchmark):
    workload = benchmark["workloads"].WORKLOADS["W1"]
    watch = benchmark["race"].Target(workload, 0.9)
    found = []
    for score in (0.91, 0.89, 0.9, 0.95):
        watch.scores.append(score)
        found.append(watch.reached)
    assert found == [False, False, False, True]


def test_splits_are_whole_batches_without_common_rows(benchmark):
    for name, workload in benchmark["workloads"].WORKLOADS.items():
        if name in ("W2", "W4"):
            continue  # Reading MNIST takes seconds; the split is the same function.
        data = workload.data()
        assert len(data.train[0]) % workload.batch == 0
        rows = [{r.tobytes() for r in np.asarray(x)} for x, _ in vars(data).values()]
        if name != "W6":  # Random sequences may repeat.
            assert not rows[0] & rows[1] | rows[1] & rows[2]
