"""The tests that Keras installs pass with classes of this package in place of Keras's.

`make test` runs a sample, `make corpora` all. What differs stands in `DIFFERENCES` with the reason.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

pytestmark = pytest.mark.tensorflow

KERAS = Path(keras.__file__).parent / "src"
ROOT = Path(__file__).parents[2]

# Which of Keras's tests fail with our classes, as regular expressions, and why.
DIFFERENCES: dict[str, str] = {}


def failures(modules, **environment):
    """Returns the tests in some of Keras's modules that fail, and how many passed."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.peers.replaced", "-c", os.devnull]
    command += ["--rootdir", KERAS, "--import-mode=importlib", "-p", "no:cacheprovider", "-q"]
    command += ["-rfE", "--tb=no", "-W", "ignore", *(KERAS / module for module in modules)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    environment.pop("PYTEST_ADDOPTS", None)
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", found.stdout)
    assert passed, found.stdout + found.stderr
    names = re.findall(r"^(?:FAILED|ERROR) \S*keras/src/(\S+)", found.stdout, re.MULTILINE)
    return names, int(passed[1])


def check(names, modules):
    """Fails for a test that differs and is not listed, or that is listed and does not differ."""
    listed = {p for p in DIFFERENCES if p.startswith(tuple(m.split("_test")[0] for m in modules))}
    unknown = [name for name in names if not any(re.match(p, name) for p in listed)]
    assert not unknown, unknown
    mended = [pattern for pattern in listed if not any(re.match(pattern, n) for n in names)]
    assert not mended, mended


SAMPLE = ["optimizers/sgd_test.py", "optimizers/adamw_test.py", "constraints/constraints_test.py"]
ALL = ["optimizers", "constraints", "initializers", "layers/regularization", "callbacks"]


@pytest.mark.parametrize(
    "modules", [SAMPLE, pytest.param(ALL, marks=pytest.mark.corpora)], ids=["sample", "all"]
)
def test_keras_own_tests_pass(modules, record_property):
    names, passed = failures(modules)
    record_property("peers", f"{passed} passed, {len(names)} differ")
    check(names, modules)


@pytest.mark.corpora
def test_keras_tests_of_fit_pass_with_accelerate(record_property):
    names, passed = failures(["trainers/trainer_test.py"], KERASTOOLS_ACCELERATES="1")
    record_property("peers", f"{passed} passed, {len(names)} differ")
    check(names, ["trainers/trainer_test.py"])
