import keras
import numpy as np
import pytest
from keras import ops

from kerastools.optimizers import (
    SGD,
    Adam,
    Nadam,
    ParamGroup,
    RMSprop,
    layer_decay_groups,
    no_decay_groups,
    rebind,
)
from kerastools.optimizers._group_builders import _is_vector
from tests.optimizers.trajectory import gradients, how_to_run, run


def data():
    rng = np.random.default_rng(2)
    return np.float32(rng.normal(size=(32, 4))), np.float32(rng.normal(size=(32, 2)))


def make(kind, optimizer):
    """A model with layers `a`, `b` and `c`, alone or inside another model."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(5, "tanh", name="a"), keras.layers.Dense(5, "tanh", name="b")]
    head = keras.layers.Dense(2, name="c")
    x = keras.Input((4,))
    if kind == "sequential":
        model = keras.Sequential([x, *layers, head])
    elif kind == "functional":
        model = keras.Model(x, head(layers[1](layers[0](x))))
    else:
        trunk = keras.Sequential([keras.Input((4,)), *layers], name="trunk")
        model = keras.Model(x, head(trunk(x)))
    model.compile(optimizer, "mse")
    return model


def fit(model, epochs=2, **options):
    model.fit(*data(), batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)
    return model


def layer(model, name):
    nested = [one for one in model.layers if isinstance(one, keras.Model)]
    found = [inner for one in [model, *nested] for inner in one.layers if inner.name == name]
    return found[0]


OPTIMIZERS = [
    pytest.param(lambda **k: Adam(0.01, weight_decay=0.1, global_clipnorm=0.1, **k), id="Adam"),
    pytest.param(lambda **k: SGD(0.1, 0.9, nesterov="exact", **k), id="SGD"),
    pytest.param(lambda **k: Nadam(0.01, **k), id="Nadam"),
    pytest.param(lambda **k: RMSprop(0.01, momentum=0.5, **k), id="RMSprop"),
]


UNFUSED = [pytest.param(*OPTIMIZERS[0].values, False, id="Adam-unfused")]


@pytest.mark.tensorflow  # Groups are formed alike on both.
@pytest.mark.parametrize(
    ("optimizer", "fuses"),
    [pytest.param(*case.values, True, id=case.id) for case in OPTIMIZERS] + UNFUSED,
)
def test_groups_of_equal_settings_are_one_group_to_the_bit(optimizer, fuses):
    groups = [ParamGroup(name, weight_decay=None) for name in "ac"]
    results = []
    for chosen in ([], groups):
        made = optimizer(param_groups=chosen)
        made._fuses = fuses
        results.append(fit(make("sequential", made)).get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("how", how_to_run())
def test_each_group_is_trained_by_its_own_numbers(how):
    numbers = {"weight_decay": 0.5, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-4}
    group = ParamGroup(lambda variable: len(variable.shape) == 2, lr_multiplier=0.1, **numbers)
    weights, slots = run(Adam(0.01, param_groups=[group]), gradients(50), how)
    as_group, group_slots = run(Adam(0.001, **numbers), gradients(50), how)
    as_rest, rest_slots = run(Adam(0.01), gradients(50), how)
    np.testing.assert_allclose(weights[0], as_group[0], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(weights[1], as_rest[1], rtol=1e-6)
    assert np.abs(weights[0] - as_rest[0]).max() > 0.01
    for name in ("momentum", "velocity"):
        np.testing.assert_allclose(slots[name][0], group_slots[name][0], rtol=1e-6)
        np.testing.assert_allclose(slots[name][1], rest_slots[name][1], rtol=1e-6)


def test_one_clip_bounds_the_norm_over_all_groups():
    groups = [ParamGroup("a"), ParamGroup("b"), ParamGroup("c")]
    model = make("sequential", SGD(1.0, global_clipnorm=0.01, param_groups=groups))
    before = model.get_weights()
    x, y = data()
    model.fit(x, y, batch_size=32, verbose=0)
    moved = [a - b for a, b in zip(model.get_weights(), before, strict=True)]
    length = np.sqrt(sum(np.sum(m**2) for m in moved))
    assert length == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("sequential", "role"),
        ("functional", "layer"),
        ("nested", "glob"),
        ("nested", "function"),
    ],
)
def test_the_grouping_is_the_same_after_saving_and_loading(kind, match, tmp_path):
    optimizer = Adam(0.01)
    model = make(kind, optimizer)
    matches = {
        "glob": "[ab]",
        "layer": [layer(model, "a"), layer(model, "b")],
        "function": lambda variable: variable.shape[-1] == 5,
        "role": "role:bias",
    }
    group = ParamGroup(matches[match], lr_multiplier=0.1, beta_2=0.9)
    model.compile(Adam(0.01, param_groups=[group]), "mse")
    fit(model)
    chosen = ops.convert_to_numpy(model.optimizer._group_slots)[:, 0].tolist()
    assert chosen == ([0, 1, 0, 1, 0, 1] if match == "role" else [1, 1, 1, 1, 0, 0])
    model.optimizer.set_group(0, lr_multiplier=0.2)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert ops.convert_to_numpy(loaded.optimizer._group_slots)[:, 0].tolist() == chosen
    assert loaded.optimizer.param_groups[0].numbers["lr_multiplier"] == 0.2
    for a, b in zip(fit(model).get_weights(), fit(loaded).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_number_of_a_group_is_set_while_fit_runs():
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.set_group(0, lr_multiplier=0.0)
                self.held = layer(self.model, "a").get_weights()

    stop = Stop()
    group = ParamGroup("a", lr_multiplier=0.5)
    model = make("functional", SGD(0.1, param_groups=[group]))
    start = layer(model, "a").get_weights()
    fit(model, callbacks=[stop])
    for a, b, c in zip(layer(model, "a").get_weights(), stop.held, start, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.abs(b - c).max() > 0


def test_layers_that_join_later_join_their_group():
    model = make("sequential", None)
    groups = [
        ParamGroup(layer(model, name), lr_multiplier=m)
        for name, m in zip("ac", (0.0, 1.0), strict=True)
    ]
    layer(model, "a").trainable = layer(model, "b").trainable = False
    model.compile(Adam(0.01, param_groups=groups), "mse")
    fit(model)
    layer(model, "a").trainable = layer(model, "b").trainable = True
    before = {name: layer(model, name).get_weights()[0] for name in "abc"}
    rebind(model.optimizer, model)
    fit(model)
    chosen = ops.convert_to_numpy(model.optimizer._group_slots).tolist()
    assert chosen == [[1, 0], [1, 0], [0, 0], [0, 0], [0, 1], [0, 1]]
    moved = {
        name: np.abs(layer(model, name).get_weights()[0] - before[name]).max() for name in "abc"
    }
    assert moved["a"] == 0
    assert moved["b"] > 0 < moved["c"]


def test_layers_decay_from_the_top():
    model = make("nested", None)
    groups = layer_decay_groups(model, 0.5, min_multiplier=0.3)
    assert [(g.match.name, g.numbers["lr_multiplier"]) for g in groups] == [
        ("a", 0.3),
        ("b", 0.5),
        ("c", 1.0),
    ]
    before = model.get_weights()
    x, y = data()
    model.compile(SGD(0.1, param_groups=groups), "mse")
    plain = make("nested", SGD(0.1))
    for one in (model, plain):
        one.fit(x, y, batch_size=32, verbose=0)
    for factor, i in ((0.3, 0), (0.5, 2), (1.0, 4)):
        step = model.get_weights()[i] - before[i]
        np.testing.assert_allclose(step, factor * (plain.get_weights()[i] - before[i]), atol=2e-7)


def test_groups_that_set_different_numbers_come_together():
    model = make("nested", None)
    groups = [
        *no_decay_groups(model),
        *layer_decay_groups(model, 0.5),
        ParamGroup("c", lr_multiplier=3.0),
    ]
    optimizer = SGD(1.0, weight_decay=0.1, param_groups=groups)
    optimizer.build(model.trainable_variables)
    optimizer.set_group(0, weight_decay=0.2)
    before = model.get_weights()
    optimizer.apply([ops.zeros(v.shape) for v in model.trainable_variables])
    for name, rate in {"a": 0.25, "b": 0.5, "c": 3.0}.items():
        places = [i for i, v in enumerate(model.weights) if f"{name}/" in v.path]
        for i, decay in zip(places, (0.1, 0.2), strict=True):
            expected = before[i] * (1 - rate * decay)
            np.testing.assert_allclose(model.get_weights()[i], expected, rtol=1e-6)


def test_vectors_are_spared_from_decay():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    (group,) = no_decay_groups(model)
    names = [v.path.split("/")[-1] for v in model.trainable_variables if group.matches(v)]
    assert names == ["bias", "gamma", "beta"]
    bare = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)])
    assert no_decay_groups(bare) == []


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            [ParamGroup("a", weight_decay=1), ParamGroup("role:bias", weight_decay=2)],
            "both set weight_decay of .*a/bias",
        ),
        (
            [*[ParamGroup(_is_vector, beta_1=0.1)] * 2],
            r"ParamGroup\(_is_vector, beta_1=0.1\) and ParamGroup\(_is_vector",
        ),
        ([ParamGroup("a", rho=0.5)], "Adam has no number 'rho' for a group. It has lr_mult"),
        ([ParamGroup("a", clipnorm=0.5)], "no number 'clipnorm'"),
        ([ParamGroup("a", beta_1=1.5)], r"beta_1 to be a number in \[0, 1\)"),
        ([ParamGroup("a", lr_multiplier=-1)], "lr_multiplier to be a number"),
        ([ParamGroup("a", epsilon=lambda step: 1.0)], "epsilon is a number"),
    ],
)
def test_groups_that_cannot_be_are_refused_and_nothing_is_changed(groups, message):
    model = make("sequential", Adam(0.01, param_groups=groups))
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_group_of_a_frozen_layer_acts_when_it_trains():
    model = make("sequential", SGD(0.5, param_groups=[ParamGroup("a", lr_multiplier=0.5)]))
    first = model.layers[0]
    first.trainable = False
    with pytest.warns(UserWarning, match=r"ParamGroup\('a', .*\) matches none of the 4 variables"):
        fit(model)
    first.trainable = True
    rebind(model.optimizer, model)
    before = ops.convert_to_numpy(first.bias)
    model.optimizer.apply([ops.ones(v.shape) for v in model.trainable_variables])
    np.testing.assert_allclose(before - ops.convert_to_numpy(first.bias), 0.25, rtol=1e-5)


def test_a_match_that_is_none_is_refused():
    with pytest.raises(TypeError, match="Received 3 of type int"):
        ParamGroup(3)
    with pytest.raises(ValueError, match="kernel, bias, norm, embedding"):
        ParamGroup("role:weights")
