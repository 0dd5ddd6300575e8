"""Shared by all tests: one seed, one float policy, and no test changes them for the next."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
if os.environ.get("KERAS_BACKEND") == "jax":
    # Tests compile far more than they compute: half of the time is LLVM's optimisation.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    )

import keras
import pytest


@pytest.fixture(autouse=True)
def fresh_state():
    policy = keras.config.dtype_policy()
    keras.utils.set_random_seed(20)
    yield
    keras.config.set_dtype_policy(policy)
