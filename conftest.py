"""Shared by all tests: isolation of Keras's global state, and the options that choose tests."""

import gc
import os
import platform
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
if os.environ.get("KERAS_BACKEND") == "jax":
    # Tests compile far more than they compute: half of the time is LLVM's optimisation.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    )
    # Many tests train the same small nets: each program is compiled once. Every worker has a
    # folder of its own, because JAX's files are not written atomically.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    cache = Path(__file__).parent / ".pytest_cache" / "jax" / worker
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras
import pytest

# The public settings of Keras that a test might change.
SETTINGS = {
    getattr(keras.config, f"set_{name}"): getattr(keras.config, name)()
    for name in ("dtype_policy", "floatx", "epsilon", "image_data_format")
}
# `make test-quick` runs so many tests of every file.
QUICK = 2


def reset_keras():
    """Puts names, seeds and settings of Keras to where a fresh process has them."""
    keras.utils.clear_session(free_memory=False)
    for setter, value in SETTINGS.items():
        setter(value)
    keras.utils.set_random_seed(20)


@pytest.fixture(autouse=True)
def isolation():
    reset_keras()
    yield
    reset_keras()


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """A fixture that several tests share is the same, whichever of them asks for it first."""
    if fixturedef.scope != "function":
        reset_keras()
    return (yield)


def pytest_addoption(parser):
    group = parser.getgroup("kerastools")
    group.addoption(
        "--corpora", action="store_true", help="run the tests marked corpora, and only these"
    )
    group.addoption("--quick", action="store_true", help=f"run the first {QUICK} tests of a file")
    group.addoption("--reverse", action="store_true", help="run the tests in reversed order")
    group.addoption("--results", metavar="FILE", help="write outcomes and what they say to FILE")


def pytest_collection_modifyitems(config, items):
    """Chooses the tests by the options above."""
    taken = Counter()

    def wanted(item):
        if (item.get_closest_marker("corpora") is not None) != config.option.corpora:
            return False
        if not config.option.quick:
            return True
        if item.get_closest_marker("slow") or isinstance(item, pytest.DoctestItem):
            return False
        taken[item.path] += 1
        return taken[item.path] <= QUICK

    chosen = [item for item in items if wanted(item)]
    if len(chosen) < len(items):
        kept = set(chosen)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = chosen[::-1] if config.option.reverse else chosen


def pytest_collection_finish():
    """Keeps what was imported out of every garbage collection, of which keras-tuner makes many."""
    gc.collect()
    gc.freeze()


def pytest_configure(config):
    """Writes results where all reports arrive: not in the workers of xdist."""
    if config.option.results and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(config.option.results))


class Results:
    """Keeps each test's outcome, and what it noted by `record_property`, in a text file."""

    def __init__(self, path):
        self.path, self.lines = Path(path), {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            notes = "; ".join(str(value) for _, value in report.user_properties)
            self.lines[report.nodeid] = (report.outcome, notes)

    def pytest_sessionfinish(self):
        outcomes = Counter(outcome for outcome, _ in self.lines.values())
        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(outcomes.items()))
        versions = f"Keras {keras.version()} on {keras.backend.backend()}"
        header = f"{versions}, Python {platform.python_version()}: {counts}"
        lines = [
            f"{outcome:8}{test}" + (f"   {notes}" if notes else "")
            for test, (outcome, notes) in sorted(self.lines.items())
        ]
        self.path.write_text("\n".join([header, "", *lines, ""]))
