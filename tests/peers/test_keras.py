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
DIFFERENCES = {
    r"optimizers/\w+_test.py::\w+::test_(global_)?clip_(norm|value)$": (
        "asks a private hook to clip; ours clips on TensorFlow after the sum over replicas"
    ),
    r"optimizers/optimizer_test.py::\w+::test_clip_args": "the clips can be combined here",
    r"optimizers/optimizer_test.py::\w+::test_ema_with_model_fit": (
        "the average stays in the optimizer at the end of fit, for EvaluationWeights"
    ),
    r"callbacks/swap_ema_weights_test.py::": "the same",
    r"optimizers/adam_test.py::\w+::test_ema": "calls private hooks; ours averages in apply",
    r"optimizers/sgd_test.py::\w+::test_single_step": "counts variables; ours keeps a velocity",
    r"optimizers/optimizer_test.py::\w+::test_setting_lr_to_callable_untracks_lr_var": "the same",
    r"optimizers/schedules/\w+_test.py::\w+::test_fit_lr_correctness": "the same",
    r"optimizers/sgd_test.py::\w+::test_invalid_momentum": "another message",
    r"optimizers/adamw_test.py::\w+::test_weight_decay_is_none": "None is no decay, as in Adam",
    r"optimizers/nadam_test.py::\w+::test_build_with_empty_var_list": "reads a private attribute",
    r"optimizers/optimizer_sparse_test.py::\w+::test_sparse_gradients_": (
        "watches the calls of Keras's assign; ours calls TensorFlow's kernels"
    ),
    r"initializers/random_\w+_test.py::\w+::test_variance_scaling_(?!invalid)\w*with_axes": (
        "the axes are arguments of other names"
    ),
    r"initializers/random_\w+_test.py::\w+::test_mha_query_projection_variance": "the same",
    r"initializers/random_\w+_test.py::\w+::test_variance_scaling_invalid_": ("another message"),
}
# They need a package that is no dependency of the tests.
NOT_RUN = "callbacks/orbax_checkpoint_test.py"


def failures(modules, **environment):
    """Returns the tests in some of Keras's modules that fail, and how many passed."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.peers.replaced", "-c", os.devnull]
    command += ["--rootdir", KERAS, "--import-mode=importlib", "-p", "no:cacheprovider", "-q"]
    command += ["-rfE", "--tb=no", "-W", "ignore", f"--ignore={KERAS / NOT_RUN}"]
    command += [KERAS / module for module in modules]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    environment.pop("PYTEST_ADDOPTS", None)
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    passed = re.search(r"(\d+) passed", found.stdout)
    assert passed, found.stdout + found.stderr
    names = re.findall(r"^(?:FAILED|ERROR) \S*keras/src/(\S+)", found.stdout, re.MULTILINE)
    return names, int(passed[1])


def check(names, whole):
    """Fails for a test that differs and is not listed, or, of `whole` runs, the other way round."""
    unknown = [name for name in names if not any(re.match(p, name) for p in DIFFERENCES)]
    assert not unknown, unknown
    listed = [p for p in DIFFERENCES if p.startswith(whole)]
    equal = [pattern for pattern in listed if not any(re.match(pattern, n) for n in names)]
    assert not equal, equal


SAMPLE = ["optimizers/sgd_test.py", "optimizers/adamw_test.py", "constraints/constraints_test.py"]
ALL = ["optimizers", "constraints", "initializers", "layers/regularization", "callbacks"]


@pytest.mark.parametrize(
    "modules", [SAMPLE, pytest.param(ALL, marks=pytest.mark.corpora)], ids=["sample", "all"]
)
def test_keras_own_tests_pass(modules, record_property):
    names, passed = failures(modules)
    record_property("peers", f"{passed} passed, {len(names)} differ")
    check(names, tuple(modules) if modules is ALL else ())


@pytest.mark.corpora
@pytest.mark.xfail(reason="what differs under accelerate is not in the list yet")
def test_keras_tests_of_fit_pass_with_accelerate(record_property):
    names, passed = failures(["trainers/trainer_test.py"], KERASTOOLS_ACCELERATES="1")
    record_property("peers", f"{passed} passed, {len(names)} differ")
    check(names, ("trainers",))
