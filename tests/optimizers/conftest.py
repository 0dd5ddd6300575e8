import keras
import pytest


@pytest.fixture
def float64():
    """Float64 as Keras's float type, for hyperparameters without rounding."""
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")
