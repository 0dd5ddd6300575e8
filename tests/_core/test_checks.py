import keras
import numpy as np
import pytest

from kerastools._core.checks import require_built, require_finite, require_graph, require_model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_something_that_is_no_model_is_named():
    with pytest.raises(TypeError, match=r"diagnose needs a keras.Model. Received 3 of type int"):
        require_model(3, "diagnose")


def test_an_unbuilt_model_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"model\.build\(input_shape\)"):
        require_built(keras.Sequential([keras.layers.Dense(2)], name="net"), "diagnose")


def test_a_subclassed_model_has_no_graph():
    model = Subclassed()
    model(np.ones((1, 3), "float32"))
    with pytest.raises(ValueError, match="subclass Subclassed"):
        require_graph(model, "fold_batch_norm")


def test_functional_and_sequential_models_pass():
    sequential = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    require_graph(sequential, "fold_batch_norm")
    require_graph(keras.Model(sequential.inputs, sequential.outputs), "fold_batch_norm")


class Rows(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.ones((4 - index, 3))


@pytest.mark.parametrize("data", [Rows(workers=1), (row for row in ([1],)), None])
def test_what_is_no_array_is_named(data):
    with pytest.raises(ValueError, match=f"needs arrays. Received x of type {type(data).__name__}"):
        require_finite("x", data, "diagnose")


def test_the_first_bad_number_is_located():
    x = np.ones((4, 3))
    x[2, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"1 values that are NaN or infinite, the first at .*\(2, 1"
    ):
        require_finite("x", x, "diagnose")
    with pytest.raises(ValueError, match="at least one row"):
        require_finite("x", np.ones((0, 3)), "diagnose")
