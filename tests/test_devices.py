"""Several devices train as one: see `devices.py`, which is run in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "tests/devices.py", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
        env={**os.environ, "XLA_FLAGS": flags},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_several_devices_train_as_one():
    run("quick")


@pytest.mark.corpora
def test_every_part_and_procedure_trains_on_several_devices_as_on_one():
    run("long")
