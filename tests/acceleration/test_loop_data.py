"""The batches of an accelerated fit are those of Keras; fails if Keras's adapters change."""

import keras
import numpy as np
import pytest

from kerastools.acceleration._loop_data import StackingAdapter


def rows_of_three_epochs(adapter):
    keras.utils.set_random_seed(12)
    epochs = []
    for _ in range(3):
        if isinstance(adapter, StackingAdapter):
            batches = iter(adapter)
        elif keras.backend.backend() == "tensorflow":
            batches = adapter.get_tf_dataset()
        else:
            batches = adapter.get_jax_iterator()
        leaves = [keras.tree.flatten(batch)[0] for batch in batches]
        epochs.append(np.concatenate([keras.ops.convert_to_numpy(a)[:, 0] for a in leaves]))
    return np.stack(epochs)


@pytest.mark.parametrize("shuffle", [True, False])
def test_order_of_rows_is_that_of_keras_in_every_epoch(shuffle):
    keras.utils.set_random_seed(12)
    x = np.arange(23, dtype="float32").reshape(23, 1)
    arrays = {"x": x, "batch_size": 5, "shuffle": shuffle}
    ours = StackingAdapter(arrays, None, lambda rows, size: "keep")
    orders = [rows_of_three_epochs(adapter) for adapter in (ours.inner, ours)]
    np.testing.assert_array_equal(orders[1], orders[0])
    np.testing.assert_array_equal(np.sort(orders[1]), np.tile(np.arange(23), (3, 1)))
    assert (orders[1] != np.arange(23)).any() == shuffle


def test_arrays_come_in_stacks_as_long_as_asked():
    arrays = {"x": np.zeros((23, 4)), "y": np.arange(23), "batch_size": 5}
    batches = iter(StackingAdapter(arrays, None, lambda rows, size: "keep"))
    shapes = []
    for _ in range(3):
        group = batches.take(3)
        shapes += [(stack.data[0].shape, group.steps, stack.weight) for stack in group.stacks]
    assert shapes == [((3, 5, 4), 3, 1.0), ((1, 5, 4), 1, 1.0), ((1, 3, 4), 1, 0.6)]
    with pytest.raises(StopIteration):
        batches.take(3)


def test_floats_are_cast_as_keras_casts_them():
    arrays = {"x": np.zeros((4, 1), "float64"), "y": np.arange(4), "batch_size": 2}
    x, y = next(iter(StackingAdapter(arrays, None, lambda rows, size: "keep")))
    assert (x.dtype, y.dtype) == ("float32", "int64")
