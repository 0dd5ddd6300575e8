"""The door between kerastools and plain Keras: what goes through it goes on as before."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import kerastools
from kerastools import KerastoolsNotice, from_keras, to_keras
from kerastools._core.keras_private.optimizer_hooks import moving_averages
from kerastools._exchange.optimizers import converted
from kerastools.optimizers import ParamGroup, rebind
from tests import zoo
from tests.optimizers.trajectory import start

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = X[:, :1] * 2 + 1
SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.9)


def make(side, optimizer, rate=0.3):
    """A model with a part of each kind: shared, nested and wrapped."""
    parts = keras if side is keras else kerastools
    drop, bound = parts.layers, parts.constraints.MaxNorm
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = keras.layers.Dense(8, "relu", kernel_constraint=bound(1.0))(inputs)
    stack = [keras.Input((8,)), keras.layers.Dense(8, "tanh"), drop.AlphaDropout(rate / 2, seed=1)]
    inner = keras.Sequential(stack, name="inner")
    x = keras.layers.Reshape((2, 4))(inner(inner(drop.Dropout(rate, seed=3)(x))))
    x = keras.layers.TimeDistributed(drop.Dropout(rate, seed=2))(x)
    x = keras.layers.Flatten()(drop.SpatialDropout1D(rate / 2, seed=5)(x))
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(optimizer, "mse", metrics=["mae", keras.metrics.MeanSquaredError(name="own")])
    return model


def fit(model, epochs=1, **options):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0} | options
    return model.fit(X, Y, epochs=epochs, **options).history


def assert_same(a, b, tolerance=0.0):
    for v, w in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(v, w, rtol=tolerance, atol=tolerance)


def averages(optimizer):
    slots = moving_averages(optimizer) if optimizer.use_ema else []
    return [ops.convert_to_numpy(v) for v in slots]


OPTIMIZERS = [
    ("SGD", {"learning_rate": 0.05}),
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.9, "nesterov": "exact"}),  # Goes on along the look-ahead.
    ("Adagrad", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adam", {"learning_rate": SCHEDULE, "amsgrad": True, "global_clipnorm": 0.5}),
    # They are exchanged in the middle of an update.
    ("Adam", {"gradient_accumulation_steps": 2, "weight_decay": 0.1}),
    ("AdamW", {"learning_rate": lambda: 0.01}),
    ("Nadam", {"use_ema": True, "ema_momentum": 0.5}),
    ("Adamax", {}),
]


CASES = [(way, *case) for case in OPTIMIZERS for way in (False, True)]


@pytest.mark.parametrize(
    ("to_keras", "name", "options"), [c for c in CASES if c[0] or c[2].get("nesterov") != "exact"]
)
def test_an_optimizer_goes_on_where_it_stopped(to_keras, name, options):
    old, new = (kerastools, keras) if to_keras else (keras, kerastools)
    rng = np.random.default_rng(0)
    gradients = [[np.float32(rng.normal(size=w.shape)) for w in start()] for _ in range(6)]

    def move(optimizer, weights, steps):
        for gs in steps:
            optimizer.apply([ops.convert_to_tensor(g) for g in gs], weights)

    weights = [keras.Variable(w, dtype="float32") for w in start()]
    optimizer = getattr(old.optimizers, name)(**options)
    optimizer.exclude_from_weight_decay(var_list=weights[:1])
    move(optimizer, weights, gradients[:3])
    copies = [keras.Variable(ops.copy(w)) for w in weights]
    twins = {id(v): w for v, w in zip(weights, copies, strict=True)}
    made = converted(optimizer, to_keras, twins, say=print)
    assert type(made) is getattr(new.optimizers, name)
    assert int(made.iterations) == int(optimizer.iterations)
    move(optimizer, weights, gradients[3:])
    move(made, copies, gradients[3:])
    for v, w in zip(weights, copies, strict=True):
        v, w = ops.convert_to_numpy(v), ops.convert_to_numpy(w)
        np.testing.assert_allclose(v, w, rtol=1e-6, atol=1e-6)
    for one, other in zip(*map(averages, (made, optimizer)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("there", [from_keras, to_keras])
def test_training_goes_on_where_it_stopped(there):
    old, new = (keras, kerastools) if there is from_keras else (kerastools, keras)
    model = make(old, old.optimizers.Adam(0.01))
    fit(model)
    made = there(model)
    assert type(made.optimizer) is new.optimizers.Adam
    assert type(made.get_layer("inner").layers[1]) is new.layers.AlphaDropout
    assert type(made.layers[1].kernel_constraint) is new.constraints.MaxNorm
    assert_same(model, made)
    logs, expected = fit(made), fit(model)
    # Keras's MaxNorm divides by the norm and 1e-7.
    assert_same(model, made, 3e-6)
    assert logs.keys() == expected.keys()
    np.testing.assert_allclose([*logs.values()], [*expected.values()], rtol=1e-4)


def test_through_and_back_is_the_same_to_the_bit():
    model = make(kerastools, kerastools.optimizers.Adam(0.01))
    fit(model)
    back = from_keras(to_keras(model))
    fit(model)
    fit(back)
    assert_same(model, back)
    assert back.layers[2].rate == 0.3


def test_variables_that_do_not_decay_or_joined_late_stay_apart():
    model = make(keras, keras.optimizers.AdamW(0.01, weight_decay=0.5))
    model.optimizer.exclude_from_weight_decay(var_list=[model.layers[1].kernel])
    model.layers[1].trainable = False
    rebind(model.optimizer, model)
    fit(model)
    model.layers[1].trainable = True
    rebind(model.optimizer, model)
    made = from_keras(model)
    fit(model)
    fit(made)
    assert_same(model, made, 3e-6)
    with pytest.warns(KerastoolsNotice, match="not compiled, because variables that joined late"):
        assert not to_keras(made).compiled


def test_loss_scaling_is_kept():
    keras.config.set_dtype_policy("mixed_float16")
    model = make(keras, keras.optimizers.Adam(0.01))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(7.0)
    made = from_keras(model)
    assert type(made.optimizer) is keras.optimizers.LossScaleOptimizer
    assert type(made.optimizer.inner_optimizer) is kerastools.optimizers.Adam
    back = to_keras(made)
    assert type(back.optimizer.inner_optimizer) is keras.optimizers.Adam
    assert float(made.optimizer.dynamic_scale) == float(back.optimizer.dynamic_scale) == 7


NO_COUNTERPART = {
    "RAdam": lambda o: o.RAdam(),
    "Lookahead": lambda o: o.Lookahead(o.Adam()),
    "epsilon_mode": lambda o: o.Adam(epsilon_mode="outside"),
    "param_groups": lambda o: o.Adam(param_groups=[ParamGroup("role:bias", lr_multiplier=2)]),
    "function of the step as beta_1": lambda o: o.Adam(beta_1=SCHEDULE),
    "function of the step as learning_rate": lambda o: o.Adam(lambda step: 0.1),
    "not by clipnorm and clipvalue": lambda o: o.Adam(clipnorm=1.0, clipvalue=1.0),
    "counts batches": lambda o: o.Adam(SCHEDULE, gradient_accumulation_steps=2),
}


@pytest.mark.parametrize("what", NO_COUNTERPART)
def test_an_optimizer_without_counterpart_is_named_and_left_out(what):
    model = make(kerastools, NO_COUNTERPART[what](kerastools.optimizers))
    with pytest.warns(KerastoolsNotice, match=f"not compiled, because .*{what}"):
        made = to_keras(model)
    assert not made.compiled
    assert_same(model, made)


def test_what_keras_does_otherwise_is_said():
    model = make(kerastools, kerastools.optimizers.Adam(0.01, skip_nonfinite=True))
    with pytest.warns(KerastoolsNotice, match="does not skip non-finite"):
        to_keras(model)
    model = make(keras, keras.optimizers.Lion())
    with pytest.warns(KerastoolsNotice, match="keeps Lion"):
        assert type(from_keras(model).optimizer) is keras.optimizers.Lion
    model = make(kerastools, kerastools.optimizers.SGD(0.01, 0.9, nesterov="exact"))
    with pytest.warns(KerastoolsNotice, match="evaluates at the look-ahead"):
        to_keras(model)
    model = make(kerastools, kerastools.optimizers.Adam(0.01, use_ema=True))
    with pytest.warns(KerastoolsNotice, match="before their constraints act"):
        made = to_keras(model)
    with pytest.warns(KerastoolsNotice, match="EvaluationWeights puts it into the model"):
        from_keras(made)


def test_parts_that_keras_does_not_have():
    uses = kerastools.layers.SpatialDropout(0.2, seed=1)
    init = kerastools.initializers.HeNormal(in_axis=0)
    layers = [keras.layers.Conv1D(4, 2, kernel_initializer=init), uses, keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((4, 2)), *layers])
    made = to_keras(model)
    assert type(made.layers[1]) is keras.layers.SpatialDropout1D
    assert type(made.layers[0].kernel_initializer) is keras.initializers.HeNormal
    rbm = kerastools.pretraining.RestrictedBoltzmann(3)
    with pytest.raises(ValueError, match=r"no counterpart in Keras for .*\(RestrictedBoltzmann\)"):
        to_keras(keras.Sequential([keras.Input((4,)), rbm]))
    bound = kerastools.constraints.MaxNorm(1.0, {"4x8": (0,), "8x2": (1,)})
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, kernel_constraint=bound)])
    assert to_keras(model).layers[0].kernel_constraint.axis == [0]


class Given(keras.Model):
    """A subclassed model that is given its layers, and says so in its configuration."""

    def __init__(self, drop, **kwargs):
        super().__init__(**kwargs)
        self.drop, self.out = drop, keras.layers.Dense(1)

    def call(self, x, training=None):
        return self.out(self.drop(x, training=training))

    def get_config(self):
        drop = keras.saving.serialize_keras_object(self.drop)
        return {**super().get_config(), "drop": drop}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"drop": keras.saving.deserialize_keras_object(config["drop"])})


class Own(Given):
    def __init__(self, **kwargs):
        super().__init__(kerastools.layers.Dropout(0.5, seed=1), **kwargs)

    def get_config(self):
        return keras.Model.get_config(self)

    from_config = classmethod(lambda cls, config: cls(**config))


def test_subclassed_models_are_made_again_by_their_configuration():
    model = Given(kerastools.layers.Dropout(0.5, seed=1))
    model.compile(kerastools.optimizers.Adam(0.01), "mse")
    fit(model)
    made = to_keras(model)
    assert isinstance(made, Given)
    assert type(made.drop) is keras.layers.Dropout
    fit(model)
    fit(made)
    assert_same(model, made, 1e-6)
    model = Own()
    model.compile(kerastools.optimizers.Adam(0.01), "mse")
    fit(model)
    with pytest.raises(ValueError, match=r'no counterpart .* layer "dropout.*" .Dropout.'):
        to_keras(model)


def test_a_model_of_a_class_of_its_own_stays_one():
    model = zoo.specimen("own_train_step").model
    assert type(from_keras(model)) is type(model)


LOADED = """
import sys
sys.modules["kerastools"] = None  # Cannot be imported.
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
data = np.load(sys.argv[2])
model.fit(data["x"], data["y"], batch_size=8, shuffle=False, verbose=0)
np.savez(sys.argv[3], *model.get_weights())
"""


@pytest.mark.tensorflow  # One process is enough.
def test_what_is_saved_loads_and_trains_on_where_kerastools_is_not_installed(tmp_path):
    # Keras does not save the state of random generators.
    model = make(kerastools, kerastools.optimizers.AdamW(0.01), rate=0)
    fit(model)
    to_keras(model).save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    paths = [str(tmp_path / name) for name in ("model.keras", "data.npz", "trained.npz")]
    found = subprocess.run(
        [sys.executable, "-c", LOADED, *paths], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    fit(model)
    for v, w in zip(model.get_weights(), np.load(paths[2]).values(), strict=True):
        np.testing.assert_allclose(v, w, rtol=3e-6, atol=3e-6)
