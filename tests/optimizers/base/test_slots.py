"""Slots, their stacks, and what is built again: these fail when Keras moves what they stand on."""

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.optimizer_hooks import known_variables, learning_rate_source
from kerastools.optimizers import Adam
from kerastools.optimizers._base.rate_factors import joined_at, set_factors, set_joined
from kerastools.optimizers._base.slots import (
    FEWEST,
    LARGEST,
    Stack,
    optimizer_tree,
    slot_variables,
    stacks_of,
)
from kerastools.optimizers._rebind import rebuild_slots


def make_variables(number):
    return [keras.Variable([1.0, 2.0], name=f"v{i}") for i in range(number)]


def test_an_optimizer_knows_its_variables_in_order():
    variables, optimizer = make_variables(3), keras.optimizers.Adam()
    optimizer.build(variables)
    assert all(a is b for a, b in zip(known_variables(optimizer), variables, strict=True))


def test_wrapped_optimizers_are_found():
    inner = keras.optimizers.SGD()
    outer = keras.optimizers.LossScaleOptimizer(inner)
    assert list(optimizer_tree(outer)) == [outer, inner]
    assert learning_rate_source(outer) is inner.learning_rate


def test_the_learning_rate_s_schedule_is_found():
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 10)
    assert learning_rate_source(keras.optimizers.SGD(schedule)) is schedule


def test_slots_are_built_again_without_leaving_old_ones_behind():
    variables, optimizer = make_variables(3), keras.optimizers.Adam()
    optimizer.build(variables)
    iterations = optimizer.iterations
    rebuild_slots(optimizer, variables[1:])
    assert len(optimizer.variables) == 2 + 2 * 2
    assert optimizer.iterations is iterations
    assert optimizer._get_variable_index(variables[1]) == 0
    with pytest.raises((ValueError, KeyError)):
        optimizer.apply([keras.ops.ones(2)], [variables[0]])


def test_slots_are_told_from_other_variables():
    variables, optimizer = make_variables(3), keras.optimizers.Adam()
    optimizer.build(variables)
    assert [v.path for v in slot_variables(optimizer)] == [
        v.path for v in (*optimizer._momentums, *optimizer._velocities)
    ]


def test_own_steps_are_counted_only_where_they_matter():
    variables = make_variables(2)
    late = {id(variables[1]): 7}
    for make, counted in [(keras.optimizers.Adam, True), (keras.optimizers.SGD, False)]:
        optimizer = make()
        optimizer.build(variables)
        set_joined(optimizer, late)
        assert joined_at(optimizer) == (late if counted else {})
        set_joined(optimizer, {})
        assert joined_at(optimizer) == {}
        assert optimizer.update_step == type(optimizer).update_step.__get__(optimizer)


def test_factors_scale_the_steps_of_single_variables():
    variables, optimizer = make_variables(2), keras.optimizers.SGD(1.0)
    optimizer.build(variables)
    set_factors(optimizer, {id(variables[1]): 0.25})
    optimizer.apply([keras.ops.ones(2), keras.ops.ones(2)], variables)
    assert [v.numpy().tolist() for v in variables] == [[0.0, 1.0], [0.75, 1.75]]
    set_factors(optimizer, {})
    optimizer.apply([keras.ops.ones(2), keras.ops.ones(2)], variables)
    assert [v.numpy().tolist() for v in variables] == [[-1.0, 0.0], [-0.25, 0.75]]


def test_an_update_step_that_the_user_has_replaced_stays():
    variables, optimizer = make_variables(2), keras.optimizers.SGD(1.0)
    optimizer.build(variables)
    plain = optimizer.update_step

    def doubled(gradient, variable, learning_rate):
        plain(2 * gradient, variable, learning_rate)

    optimizer.update_step = doubled
    for _ in range(2):
        set_factors(optimizer, {id(variables[1]): 0.25})
    optimizer.apply([keras.ops.ones(2), keras.ops.ones(2)], variables)
    assert [v.numpy().tolist() for v in variables] == [[-1.0, 0.0], [0.5, 1.5]]
    set_factors(optimizer, {})
    assert optimizer.update_step is doubled


@pytest.fixture
def rows():
    stack = Stack([0, 2], (3,), "float32")
    makers = stack.add_slot("momentum", keras.initializers.Zeros())
    return stack.slots[0], [makers[0](name="a"), makers[2](name="b")]


@pytest.mark.tensorflow
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


@pytest.mark.tensorflow
def test_a_row_refuses_another_shape(rows):
    with pytest.raises(ValueError, match="shape"):
        rows[1][0].assign([1.0])


@pytest.mark.tensorflow
def test_a_row_is_assigned_inside_a_traced_function(rows):
    import tensorflow as tf

    _, (a, b) = rows

    @tf.function
    def step(x):
        a.assign(x)
        b.assign(a + 1.0)

    step(tf.constant([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(b.numpy(), [2.0, 3.0, 4.0])


@pytest.mark.tensorflow
def test_a_row_is_written_and_restored_by_tensorflows_checkpoints(rows, tmp_path):
    import tensorflow as tf

    _, (_, b) = rows
    b.assign([1.0, 2.0, 3.0])
    checkpoint = tf.train.Checkpoint(slots=[b])
    path = checkpoint.write(str(tmp_path / "slots"))
    b.assign([0.0, 0.0, 0.0])
    checkpoint.read(path).assert_consumed()
    np.testing.assert_array_equal(b.numpy(), [1.0, 2.0, 3.0])


@pytest.mark.tensorflow
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


@pytest.mark.tensorflow
def test_a_model_trained_with_stacks_is_written_by_tensorflows_saved_model(tmp_path):
    import tensorflow as tf

    layers = [keras.layers.Dense(3, name=f"dense_{i}") for i in range(FEWEST)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(Adam(), "mse")
    x = np.ones((4, 3), "float32")
    model.train_on_batch(x, x)
    assert model.optimizer._stacks
    tf.saved_model.save(model, str(tmp_path))
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    (output,) = served(tf.constant(x)).values()
    np.testing.assert_allclose(output, model(x), rtol=1e-6)
