"""Every script in examples/ and tuning/ runs, on little data."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_example_runs(script, tmp_path):
    subprocess.run([sys.executable, script, "--quick", "--output", tmp_path], check=True)
    pictures = list(tmp_path.rglob("*.png"))
    assert pictures
    assert all(picture.stat().st_size > 10_000 for picture in pictures)


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
