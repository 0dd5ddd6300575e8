"""Small variables of one shape are updated in one go, and nobody can tell."""

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.optimizer_hooks import Row
from kerastools.optimizers import (
    SGD,
    Adagrad,
    Adam,
    Adamax,
    Nadam,
    ParamGroup,
    RAdam,
    RMSprop,
    ScheduleFreeAdamW,
    rebind,
)
from kerastools.optimizers._base.slots import FEWEST
from tests.optimizers.trajectory import error

pytestmark = pytest.mark.tensorflow

RULES = {
    "adam": lambda **k: Adam(0.01, epsilon=1e-4, **k),
    "amsgrad": lambda **k: Adam(0.01, amsgrad=True, **k),
    "nadam": lambda **k: Nadam(0.01, **k),
    "adamax": lambda **k: Adamax(0.01, **k),
    "radam": lambda **k: RAdam(0.01, beta_2=0.9, **k),
    "adagrad": lambda **k: Adagrad(0.1, **k),
    "rmsprop": lambda **k: RMSprop(0.01, **k),
    "sgd": lambda **k: SGD(0.1, 0.9, **k),
    "exact nesterov": lambda **k: SGD(0.1, 0.9, nesterov="exact", **k),
    "schedule-free": lambda **k: ScheduleFreeAdamW(0.01, **k),
}
SHAPES = [(5,), *[(2, 3)] * (FEWEST + 1)]


class Run:
    """An optimizer with variables, most of them of one shape; `step` moves all or the first."""

    def __init__(self, optimizer, stacks=True, dtype="float64", how=None):
        import tensorflow as tf

        rng = np.random.default_rng(0)
        self.variables = [
            keras.Variable(rng.normal(size=shape), dtype=dtype, name=f"v{i}")
            for i, shape in enumerate(SHAPES)
        ]
        self.given = [
            [tf.constant(0.1 * rng.normal(size=shape), dtype) for shape in SHAPES] for _ in range(6)
        ]
        self.optimizer = optimizer
        optimizer._fuses = stacks
        optimizer.exclude_from_weight_decay(var_list=self.variables[-1:])
        optimizer.build(self.variables)
        self.step = tf.function(
            lambda gs: optimizer.apply(gs, self.variables[: len(gs)]), jit_compile=how == "xla"
        )

    def slots(self):
        return [
            s for name in self.optimizer._slots for s in getattr(self.optimizer, f"_{name}_slots")
        ]

    def after(self, steps=None):
        for gs in self.given if steps is None else steps:
            self.step(gs)
        return [v.numpy() for v in [*self.variables, *self.optimizer.variables]]


@pytest.mark.parametrize("rule", RULES)
def test_a_stack_is_moved_as_its_variables_one_by_one(rule, float64):
    clips = {"adaptive_clipnorm": 0.05} if rule == "adam" else {}
    both = [Run(RULES[rule](weight_decay=0.1, **clips), stacks) for stacks in (True, False)]
    rows = [sum(isinstance(slot, Row) for slot in run.slots()) for run in both]
    assert rows == [(FEWEST + 1) * len(both[0].optimizer._slots), 0]
    assert error(*(run.after() for run in both)) < 1e-12
    # Where a variable has no gradient, its stack is taken apart for the step.
    assert error(*(run.after([run.given[0][:4], run.given[1]]) for run in both)) < 1e-12


def test_xla_moves_a_stack_alike(float64):
    runs = [Run(Adam(0.01), how=how) for how in ("graph", "xla")]
    assert error(*(run.after() for run in runs)) < 1e-12


def test_groups_and_numbers_set_on_the_way_act_on_rows(float64):
    def run(stacks):
        group = ParamGroup(lambda v: v.name in "v1 v2 v3", lr_multiplier=0.1, beta_1=0.5)
        run = Run(Adam(0.01, param_groups=[group]), stacks)
        run.after(run.given[:3])
        run.optimizer.beta_2 = 0.9
        run.optimizer.set_group(0, beta_1=0.8)
        return run.after(run.given[3:])

    assert error(run(True), run(False)) < 1e-12


def test_what_is_saved_with_stacks_is_loaded_without_and_goes_on_alike(float64):
    stacked, plain = Run(Adam(0.01)), Run(Adam(0.01), stacks=False)
    before = stacked.after()
    store: dict = {}
    stacked.optimizer.save_own_variables(store)
    plain.optimizer.load_own_variables({key: np.array(value) for key, value in store.items()})
    for variable, value in zip(plain.variables, before, strict=False):
        variable.assign(value)
    held = [v.numpy() for v in plain.optimizer.variables]
    for a, b in zip(held, before[len(SHAPES) :], strict=True):
        np.testing.assert_array_equal(a, b)
    assert error(stacked.after(), plain.after()) < 1e-12


def test_rebind_keeps_the_rows_of_surviving_variables_to_the_bit():
    layers = [keras.layers.Dense(3, name=f"d{i}") for i in range(FEWEST + 2)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(Adam(0.01), "mse")
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    model.fit(x, x, verbose=0)

    def held():
        variables = model.trainable_variables
        slots = model.optimizer._momentum_slots
        return {v.path: s.numpy() for v, s in zip(variables, slots, strict=True)}

    before = held()
    layers[0].trainable = layers[1].trainable = layers[2].trainable = False
    rebind(model.optimizer, model)
    # Too few for a stack are left.
    assert not any(isinstance(slot, Row) for slot in model.optimizer._momentum_slots)
    for path, value in held().items():
        np.testing.assert_array_equal(value, before[path])
    layers[1].trainable = layers[2].trainable = True
    rebind(model.optimizer, model)
    assert all(isinstance(slot, Row) for slot in model.optimizer._momentum_slots)
    after = held()
    for path in after:
        joined = "d1/" in path or "d2/" in path
        np.testing.assert_array_equal(after[path], 0 * before[path] if joined else before[path])
    model.fit(x, x, verbose=0)


@pytest.mark.parametrize("rule", RULES)
def test_at_most_three_operations_more_lead_to_the_update_of_a_small_variable_more(rule):
    import tensorflow as tf

    def operations(length):
        variables = [keras.Variable(np.ones((3, 2), "float32")) for _ in range(length)]
        optimizer = RULES[rule](weight_decay=0.1)
        optimizer.build(variables)
        step = tf.function(lambda gs: optimizer.apply(gs, variables))
        traced = step.get_concrete_function([tf.ones((3, 2))] * length)
        # Placeholders and captured handles are what is given, not what is done.
        return sum(op.type != "Placeholder" for op in traced.graph.get_operations())

    assert (operations(30) - operations(10)) / 20 <= 3
