"""Slots and rates of Keras's optimizers: these fail when Keras changes what they reach for."""

import keras
import pytest

from kerastools._core.keras_private.optimizer_hooks import learning_rate_source
from kerastools.optimizers._base.rate_factors import joined_at, set_factors, set_joined
from kerastools.optimizers._base.slots import (
    known_variables,
    optimizer_tree,
    rebuild_slots,
    slot_variables,
)


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
