"""Every script in examples/ and tuning/ runs, on little data."""

import json
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import keras_tuner
import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_runs(script, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(script), "--quick", "--output", str(tmp_path)])
    monkeypatch.syspath_prepend(script.parent)
    runpy.run_path(str(script), run_name="__main__")
    pictures = list(tmp_path.rglob("*.png"))
    assert pictures
    assert all(picture.stat().st_size > 10_000 for picture in pictures)


def test_nets_are_searched_and_what_was_found_is_kept(tmp_path, monkeypatch, capsys):
    from tuning import nets

    folders = ["--directory", str(tmp_path / "runs"), "--output", str(tmp_path / "results")]
    quick = ["--trials", "1", "--epochs", "1", "--depth", "1"]
    monkeypatch.setattr(sys, "argv", ["nets.py", "digits", "dense", *quick, *folders])
    assert nets.main() == 0
    assert (tmp_path / "results" / "digits-dense.png").stat().st_size > 10_000
    monkeypatch.setattr(nets, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["nets.py", "--table"])
    assert nets.main() == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("digits-dense      best 0.")
    for name in ("dense", "cnn", "recurrent"):
        for side in (8, 28):
            assert nets.net(name, side, 1)[0].build(keras_tuner.HyperParameters()).built


def test_recorded_searches_say_how_they_were_made():
    recorded = sorted((ROOT / "tuning" / "results").glob("*.json"))
    assert recorded
    for path in recorded:
        found = json.loads(path.read_text())
        data, net = path.stem.split("-")
        assert found["command"].startswith(f"python tuning/nets.py {data} {net} --trials ")
        assert f"--trials {len(found['trials'])} " in found["command"]
        assert path.with_suffix(".png").exists()


def test_search_stopped_by_ctrl_c_goes_on_where_it_was(tmp_path):
    command = [sys.executable, "-u", ROOT / "tuning" / "digits.py", "--depth", "2", "--epochs", "1"]
    command += ["--directory", tmp_path, "--trials"]
    # A process that was started in the background ignores Ctrl-C, and so would its children.
    heed = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    heed += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    first = subprocess.Popen(
        [sys.executable, "-c", heed, *command[1:], "50"], stdout=subprocess.PIPE, text=True
    )
    for line in first.stdout:
        if "trial   2/50" in line:
            first.send_signal(signal.SIGINT)
            break
    rest = first.communicate(timeout=120)[0]
    assert first.returncode == 130, rest
    assert "run the same command again" in rest
    second = subprocess.run([*command, "4"], check=True, stdout=subprocess.PIPE, text=True).stdout
    done = int(re.search(r"(\d+) trials are finished already", second)[1])
    assert done in (2, 3)
    assert second.count("  trial ") == 4 - done
    assert "trial   4/4" in second
    assert (tmp_path / "results.json").exists()
