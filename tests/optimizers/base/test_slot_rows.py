"""Rows of a stack are variables like any other, and Keras's hooks are where they were."""

import keras
import numpy as np
import pytest

from kerastools.optimizers import Adam
from kerastools.optimizers._base.slot_rows import FEWEST, LARGEST, Stack, stacks_of

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def rows():
    stack = Stack([0, 2], (3,), "float32")
    makers = stack.add_slot("momentum")
    return stack.slots[0], [makers[0](name="a"), makers[2](name="b")]


def test_a_row_is_read_and_assigned_without_touching_the_other(rows):
    slot, (a, b) = rows
    b.assign([1.0, 2.0, 3.0])
    b.assign_add([1.0, 1.0, 1.0])
    np.testing.assert_array_equal(b.numpy(), [2.0, 3.0, 4.0])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(a), np.zeros(3))
    np.testing.assert_array_equal(slot.numpy(), [[0.0, 0.0, 0.0], [2.0, 3.0, 4.0]])
    assert isinstance(a, keras.Variable)
    assert (tuple(a.shape), a.dtype, a.trainable) == ((3,), "float32", False)
    assert "a" in repr(a)


def test_a_row_refuses_another_shape(rows):
    with pytest.raises(ValueError, match="shape"):
        rows[1][0].assign([1.0])


def test_a_row_is_assigned_inside_a_traced_function(rows):
    import tensorflow as tf

    _, (a, b) = rows

    @tf.function
    def step(x):
        a.assign(x)
        b.assign(a + 1.0)

    step(tf.constant([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(b.numpy(), [2.0, 3.0, 4.0])


def test_a_row_is_written_and_restored_by_tensorflows_checkpoints(rows, tmp_path):
    import tensorflow as tf

    _, (_, b) = rows
    b.assign([1.0, 2.0, 3.0])
    checkpoint = tf.train.Checkpoint(slots=[b])
    path = checkpoint.write(str(tmp_path / "slots"))
    b.assign([0.0, 0.0, 0.0])
    checkpoint.read(path).assert_consumed()
    np.testing.assert_array_equal(b.numpy(), [1.0, 2.0, 3.0])


def test_only_small_variables_of_one_shape_and_type_are_stacked():
    def made(count, shape, dtype="float32"):
        return [keras.Variable(keras.ops.zeros(shape), dtype=dtype) for _ in range(count)]

    many, few = made(FEWEST, (2, 3)), made(FEWEST - 1, (2,))
    large, half = made(FEWEST, (LARGEST + 1,)), made(FEWEST, (4,), "float16")
    other = made(FEWEST, (2, 3), "float64")
    mixed = [v for same in zip(many, large, half, other, strict=True) for v in same] + few
    stacks = stacks_of(mixed)
    assert [(s.shape, s.dtype) for s in stacks] == [((2, 3), "float32"), ((2, 3), "float64")]
    assert stacks[0].indices == list(range(0, 4 * FEWEST, 4))


def test_a_model_trained_with_stacks_is_written_by_tensorflows_saved_model(tmp_path):
    import tensorflow as tf

    layers = [keras.layers.Dense(3, name=f"dense_{i}") for i in range(FEWEST)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(Adam(), "mse")
    x = np.ones((4, 3), "float32")
    model.train_on_batch(x, x)
    assert model.optimizer.stacks
    tf.saved_model.save(model, str(tmp_path))
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    (output,) = served(tf.constant(x)).values()
    np.testing.assert_allclose(output, model(x), rtol=1e-6)
