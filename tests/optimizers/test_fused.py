"""TensorFlow's kernels do what the rules say, and few operations lead to them."""

import keras
import numpy as np
import pytest

from kerastools.optimizers import SGD, Adam, Adamax, Nadam, RAdam, RMSprop
from kerastools.optimizers._base.slots import LARGEST
from tests.optimizers.trajectory import error, gradients, run

pytestmark = pytest.mark.tensorflow

RULES = {
    "adam": lambda **k: Adam(0.01, epsilon=1e-4, **k),
    "adam outside": lambda **k: Adam(0.01, epsilon_mode="outside", **k),
    "amsgrad": lambda **k: Adam(0.01, amsgrad=True, **k),
    "nadam": lambda **k: Nadam(0.01, momentum_schedule="none", epsilon=1e-4, **k),
    "adamax": lambda **k: Adamax(0.01, **k),
    "radam": lambda **k: RAdam(0.01, beta_2=0.9, **k),
    "rmsprop": lambda **k: RMSprop(0.01, **k),
    "rmsprop with momentum": lambda **k: RMSprop(0.01, momentum=0.9, **k),
    "sgd": lambda **k: SGD(0.1, 0.9, **k),
    "exact nesterov": lambda **k: SGD(0.1, 0.9, nesterov="exact", **k),
    "nesterov": lambda **k: SGD(0.1, 0.9, nesterov=True, **k),
}


def both(make, floatx="float32", change=None, given=None):
    """Returns what the kernel and what the rule make of the same gradients."""
    results = []
    for fuses in (True, False):
        optimizer = make()
        assert optimizer._has_kernel()
        optimizer._fuses = fuses
        before = (lambda step, o=optimizer: change(o, step)) if change else None
        results.append(run(optimizer, given or gradients(), "graph", floatx, before))
    return results


def largest(results):
    (a, slots), (b, others) = results
    return max([error(a, b), *(error(slots[name], others[name]) for name in slots)])


@pytest.mark.parametrize("rule", RULES)
def test_the_kernel_is_the_rule_in_float64(rule, float64):
    assert largest(both(lambda: RULES[rule](weight_decay=0.1), "float64")) < 1e-12


@pytest.mark.parametrize("rule", RULES)
def test_the_kernel_is_the_rule_in_float32(rule):
    # But for β, which the kernel takes in float32: 1 − β₂ is 1.3e-5 off at 0.999.
    assert largest(both(lambda: RULES[rule](clipnorm=1.0))) < 2e-5


def test_numbers_set_on_the_way_act_in_the_kernel_at_once(float64):
    def change(optimizer, step):
        if step == 50:
            optimizer.epsilon = 1e-2
            optimizer.beta_2 = 0.9
        if step == 100:
            optimizer.epsilon = 1e-6
            optimizer.beta_1 = 0.0
            optimizer.learning_rate = 0.1

    assert largest(both(lambda: Adam(0.01), "float64", change)) < 1e-10


def test_a_step_left_out_leaves_the_kernels_slots_to_the_bit():
    given = gradients(6)
    given[3][0][1, 2] = float("nan")
    fused, plain = both(lambda: Adam(0.01, skip_nonfinite=True), given=given)
    assert all(np.isfinite(w).all() for w in fused[0])
    assert error(fused[0], plain[0]) < 1e-5


@pytest.mark.parametrize("rule", [rule for rule in RULES if "outside" not in rule])
def test_at_most_eight_operations_lead_to_the_update_of_a_large_variable(rule):
    import tensorflow as tf

    shape = (LARGEST + 1,)

    def operations(length):
        variables = [keras.Variable(np.ones(shape, "float32")) for _ in range(length)]
        optimizer = RULES[rule](weight_decay=0.1)
        optimizer.build(variables)
        step = tf.function(lambda gs: optimizer.apply(gs, variables))
        traced = step.get_concrete_function([tf.ones(shape)] * length)
        # Placeholders and captured handles are what is given, not what is done.
        return sum(op.type != "Placeholder" for op in traced.graph.get_operations())

    each = (operations(4) - operations(2)) / 2
    assert each <= 8, each
