"""What `_slots` and `_own_steps` reach into Keras for: these fail when Keras changes it."""

import keras
import pytest

from kerastools._core._own_steps import count_own_steps, joined_at
from kerastools._core._slots import (
    known_variables,
    learning_rate_source,
    optimizer_tree,
    rebuild_slots,
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


def test_own_steps_are_counted_only_where_they_matter():
    variables = make_variables(2)
    for make, counted in [(keras.optimizers.Adam, True), (keras.optimizers.SGD, False)]:
        optimizer = make()
        optimizer.build(variables)
        count_own_steps(optimizer, [0, 7])
        assert joined_at(optimizer) == ([0, 7] if counted else [0, 0])
        count_own_steps(optimizer, [0, 0])
        assert joined_at(optimizer) == [0, 0]
