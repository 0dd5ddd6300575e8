"""Shared by all tests: one seed, one float policy, and no test changes them for the next."""

import gc
import os
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
    cache = Path(__file__).parents[1] / ".pytest_cache" / "jax" / worker
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import keras
import pytest


def pytest_collection_finish():
    """Keeps what was imported out of every garbage collection, of which keras-tuner makes many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def fresh_state():
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(20)
    yield
    keras.config.set_dtype_policy(policy)
