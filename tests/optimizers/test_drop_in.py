"""A class that has a name of Keras's takes Keras's arguments and the same steps.

The exceptions, where Keras is wrong, are in `tests/keras_defects.py`.
"""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

from kerastools import optimizers
from kerastools._core.keras_private.optimizer_state import KERAS_SLOTS, common_state
from tests.optimizers.trajectory import FAST, compiled

SLOTS = [cls.__name__ for cls in KERAS_SLOTS]
TOGETHER = {"weight_decay": 0.1, "global_clipnorm": 2.0, "use_ema": True}
OPTIONS = [
    *((name, {}) for name in SLOTS),
    *((name, TOGETHER) for name in SLOTS),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("Adagrad", {"initial_accumulator_value": 0.0, "epsilon": 1e-3}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"momentum": 0.5, "centered": True, "rho": 0.99, "epsilon": 1e-3}),
    ("Adam", {"amsgrad": True}),
    ("Adam", {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-2}),
    ("Nadam", {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-2}),
    ("Adamax", {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-2}),
    ("Adam", {"clipnorm": 0.5}),
    ("Adam", {"clipvalue": 0.1}),
    ("Adam", {"clipnorm": 0}),
    ("Adam", {"global_clipnorm": 0.5}),
    ("Adam", {"weight_decay": 0.1}),
    ("Adam", {"loss_scale_factor": 8.0}),
    ("Adam", {"gradient_accumulation_steps": 2}),
    ("Adam", {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 7}),
    ("SGD", {"learning_rate": lambda: 0.1}),
    ("SGD", {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)}),
]
# Eight of one shape share a stack; the first is moved alone, by a kernel where there is one.
SHAPES = [(5,), *[(2, 3)] * 8]


def gradients():
    """Fifty, the same in every version of NumPy."""
    rng = np.random.RandomState(0)
    return [[np.float32(rng.uniform(-1, 1, shape)) for shape in SHAPES] for _ in range(50)]


def moved(optimizer):
    """Returns the variables after a step per gradient."""
    rng = np.random.RandomState(1)
    weights = [keras.Variable(np.float32(rng.uniform(-1, 1, shape))) for shape in SHAPES]
    optimizer.build(weights)
    step = compiled(optimizer, weights, FAST)
    for gs in gradients():
        step([ops.convert_to_tensor(g) for g in gs])
    return weights


def assert_same(ours, theirs, what):
    for a, b in zip(ours, theirs, strict=True):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=what)


@pytest.mark.parametrize(
    ("name", "options"),
    OPTIONS,
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "defaults",
)
def test_the_trajectory_is_keras(name, options):
    ours, theirs = (getattr(module, name)(**options) for module in (optimizers, keras.optimizers))
    assert_same(moved(ours), moved(theirs), "weights")
    for mine, its in common_state(ours, theirs):
        assert_same([mine], [its], its.path)


@pytest.mark.parametrize("name", [*SLOTS, "ScheduleFreeAdamW"])
def test_keras_arguments_stand_in_keras_order_with_keras_defaults(name):
    ours, theirs = (
        inspect.signature(getattr(module, name)).parameters
        for module in (optimizers, keras.optimizers)
    )
    its = [(p.name, p.default) for p in theirs.values() if p.name != "kwargs"]
    mine = [(p.name, p.default) for p in ours.values() if p.kind != p.KEYWORD_ONLY]
    assert mine == its
    assert {"skip_nonfinite", "param_groups", "adaptive_clipnorm"} <= set(ours) - set(theirs)
    # They may be given by position, too.
    cls, values = getattr(optimizers, name), [default for _, default in mine[:-1]]
    config = cls(*values, "name").get_config()
    assert config == cls(name="name").get_config()
    assert config == cls(**(dict(mine) | {"name": "name"})).get_config()


def test_the_shared_arguments_are_typed_as_they_are_taken():
    from kerastools.optimizers._base.arguments import CommonArguments
    from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer

    taken = inspect.signature(MutableOptimizer.__init__).parameters
    assert list(CommonArguments.__annotations__) == list(taken)[2:]
    typed = {name: taken[name].annotation for name in CommonArguments.__annotations__}
    assert typed == CommonArguments.__annotations__


@pytest.mark.parametrize("name", [*SLOTS, "RAdam", "ScheduleFreeAdamW"])
def test_help_tells_of_every_argument(name):
    cls = getattr(optimizers, name)
    text = inspect.getdoc(cls)
    assert "{{" not in text
    for argument in inspect.signature(cls).parameters:
        assert f"\n    {argument}: " in text, argument


def test_adam_shows_what_users_need_and_no_hooks():
    own = set(dir(optimizers.Adam())) - set(dir(keras.optimizers.Adam()))
    assert {name for name in own if not name.startswith("_")} == {
        "adaptive_clipnorm",
        "at_evaluation",
        "clipped_steps",
        "epsilon_mode",
        "gradient_norm",
        "mutable_hyperparameters",
        "param_groups",
        "set_group",
        "skip_nonfinite",
        "skipped_steps",
        "to_evaluation",
        "to_training",
    }


def test_numbers_of_any_kind_are_taken():
    decay = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    for rate in (1, np.float32(1), ops.convert_to_tensor(1.0), True):
        assert float(ops.convert_to_numpy(optimizers.SGD(rate).learning_rate)) == 1
    for rate in (decay, keras.saving.serialize_keras_object(decay), lambda: 0.1, lambda t: 0.1):
        assert float(ops.convert_to_numpy(optimizers.SGD(rate).learning_rate)) == pytest.approx(0.1)
        assert optimizers.SGD(momentum=0, clipnorm=0, weight_decay=rate).weight_decay is not None
    assert isinstance(keras.optimizers.get("kerastools>AdamW"), optimizers.AdamW)
    assert optimizers.RMSprop(momentum=0).get_config()["momentum"] == 0


def test_functions_without_arguments_are_asked_in_each_step():
    """Keras's texts promise this of β₁ and β₂, but its update fails on it."""
    constant, asked = optimizers.Adam(beta_1=0.8), optimizers.Adam(beta_1=lambda: 0.8)
    assert_same(moved(asked), moved(constant), "weights")


@pytest.mark.tensorflow
def test_a_net_differs_from_keras_as_its_own_graph_and_jit_differ():
    rng = np.random.RandomState(2)
    x, y = np.float32(rng.normal(size=(64, 8))), rng.randint(0, 3, 64)

    def trained(optimizer, **arguments):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(16, "tanh"), keras.layers.Dense(3, "softmax")]
        model = keras.Sequential([keras.Input((8,)), *layers])
        model.compile(optimizer, "sparse_categorical_crossentropy", **arguments)
        model.fit(x, y, batch_size=16, epochs=10, shuffle=False, verbose=0)
        return np.concatenate([w.ravel() for w in model.get_weights()])

    graph = trained(keras.optimizers.Adam(0.01), jit_compile=False)
    jit = trained(keras.optimizers.Adam(0.01), jit_compile=True)
    ours = trained(optimizers.Adam(0.01), jit_compile=False)
    print("difference", np.abs(ours - graph).max(), np.abs(jit - graph).max())
    assert np.abs(ours - graph).max() <= 3 * np.abs(jit - graph).max()
