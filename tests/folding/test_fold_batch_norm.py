"""Folding is proved by an identity: the folded model computes what the model computed."""

import functools
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import kerastools
from kerastools._core.graph.kinds import layer_classes
from kerastools._core.keras_private.graph_nodes import RECORDED_TRAINING_HOLDS
from kerastools.folding import fold_batch_norm
from tests.folding.networks import (
    BIAS,
    ON_ONE_BACKEND,
    PRODUCERS,
    assert_same,
    fold,
    network,
    num_batch_norms,
    outputs,
    randomise,
    reasons,
    sample,
)

CHANNELS_FIRST = pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow has no channels-first convolution on a CPU",
)


def reason(model):
    """Returns why the only batch norm of a randomised model was not folded backwards."""
    folded, report = fold(randomise(model))
    (kept,) = [o.reason for o in report.outcomes if o.reason]
    assert num_batch_norms(folded) > 0
    return kept.split("; ")[0]


@BIAS
@pytest.mark.parametrize("name", PRODUCERS)
def test_batch_norm_folds_into_the_linear_layer_before_it(name, use_bias):
    shape, producer = PRODUCERS[name]
    model = network(shape, producer(use_bias=use_bias, name="p"), layers.BatchNormalization())
    folded, report = fold(model)
    assert report.num_folded == 1
    assert report.outcomes[0].into == "p"
    assert num_batch_norms(folded) == 0


@CHANNELS_FIRST
@pytest.mark.parametrize("name", [n for n in PRODUCERS if "conv" in n and "causal" not in n])
def test_batch_norm_folds_channels_first(name):
    shape, producer = PRODUCERS[name]
    model = network(
        (shape[-1], *shape[:-1]),
        producer(data_format="channels_first"),
        layers.BatchNormalization(axis=1),
    )
    assert fold(model)[1].num_folded == 1


def test_channels_first_folds_where_only_the_graph_can_be_built():
    """TensorFlow cannot run it on a CPU: the weights are compared with channels last instead."""
    results = {}
    for data_format, shape, axis in [
        ("channels_last", (6, 6, 3), -1),
        ("channels_first", (3, 6, 6), 1),
    ]:
        keras.utils.set_random_seed(1)
        conv = layers.Conv2D(4, 3, data_format=data_format)
        model = network(shape, conv, layers.BatchNormalization(axis=axis))
        folded, report = fold_batch_norm(model, return_report=True)
        assert report.num_folded == 1
        results[data_format] = folded.get_weights()
    for last, first in zip(*results.values(), strict=True):
        np.testing.assert_array_equal(last, first)


@ON_ONE_BACKEND
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_scale_and_center_may_be_off(scale, center):
    norm = layers.BatchNormalization(scale=scale, center=center, epsilon=0.01)
    model = network((6, 6, 2), layers.Conv2D(4, 3), norm, layers.ReLU())
    assert fold(model)[1].num_folded == 1


def test_folded_weights_equal_the_equation_in_float64_to_the_bit():
    model = network((5,), layers.Dense(4), layers.BatchNormalization(epsilon=1e-5))
    dense, norm = model.layers
    w, c = (v.astype("float64") for v in dense.get_weights())
    gamma, beta, mean, variance = (v.astype("float64") for v in norm.get_weights())
    a = gamma / np.sqrt(variance + 1e-5)
    kernel, bias = fold_batch_norm(model).get_weights()
    np.testing.assert_array_equal(kernel, (a * w).astype("float32"))
    np.testing.assert_array_equal(bias, (a * c + (beta - a * mean)).astype("float32"))


@ON_ONE_BACKEND
def test_large_means_lose_no_accuracy():
    """|μ|/σ = 1e4: a fold in float32 would be 300 times less exact than one in float64."""
    model = network((5,), layers.Dense(4), layers.BatchNormalization(epsilon=1e-8))
    dense, norm = model.layers
    norm.moving_variance.assign(np.full(4, 1e-4))
    norm.moving_mean.assign(np.full(4, 100.0))
    dense.bias.assign(np.full(4, 100.0))
    w, c = (v.astype("float64") for v in dense.get_weights())
    gamma, beta, mean, variance = (v.astype("float64") for v in norm.get_weights())
    x = sample(model).astype("float64") * 1e-2
    want = gamma * (x @ w + c - mean) / np.sqrt(variance + norm.epsilon) + beta
    got = outputs(fold_batch_norm(model), x)[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.tensorflow
def test_float64_model_is_exact_to_1e_12():
    """JAX computes in float32 unless it is told otherwise before it starts."""
    keras.config.set_dtype_policy("float64")
    model = network((8, 8, 3), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU())
    fold(model, tolerance=1e-12)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_folds_and_is_no_further_from_float64_than_before(policy):
    parts = lambda: (  # noqa: E731
        layers.Conv2D(8, 3, name="c"),
        layers.BatchNormalization(name="n"),
        layers.ReLU(name="r"),
    )
    exact = network((8, 8, 3), *parts())
    keras.config.set_dtype_policy(policy)
    model = network((8, 8, 3), *parts())
    model.set_weights(exact.get_weights())
    folded, report = fold_batch_norm(model, return_report=True)
    assert report.num_folded == 1
    assert folded.layers[0].dtype_policy.name == policy
    assert folded.layers[0].kernel.dtype == "float32"
    x = sample(exact, rows=16)
    (want,), (before,), (after,) = (outputs(m, x) for m in (exact, model, folded))
    assert np.abs(after - want).max() <= 2 * np.abs(before - want).max()


def test_folds_through_layers_that_do_nothing_in_inference():
    model = network(
        (6, 6, 3),
        layers.Conv2D(4, 3),
        layers.Dropout(0.3),
        layers.SpatialDropout2D(0.3),
        layers.GaussianNoise(0.1),
        layers.Identity(),
        layers.Activation("linear"),
        kerastools.layers.Dropout(0.4),
        layers.BatchNormalization(),
        layers.ReLU(),
    )
    folded, report = fold(model)
    assert report.num_folded == 1
    assert len(folded.layers) == len(model.layers) - 1
    assert float(folded.layers[-2].rate) == float(model.layers[-3].rate)


DROPOUTS = [
    *(kerastools.layers.AlphaDropout, kerastools.layers.Dropout),
    *(kerastools.layers.SpatialDropout1D, kerastools.layers.SpatialDropout2D),
    kerastools.layers.SpatialDropout3D,
    *layer_classes("dropout", "spatial_dropout", "alpha_dropout", "gaussian_dropout", "noise"),
]


@pytest.mark.parametrize("cls", DROPOUTS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_folds_through_every_dropout_and_noise(cls):
    rank = next((n for n in (1, 3) if cls.__name__.endswith(f"{n}D")), 2)
    conv = getattr(layers, f"Conv{rank}D")(4, 3)
    model = network((5,) * rank + (3,), conv, cls(0.2), layers.BatchNormalization(), layers.ReLU())
    assert fold(model)[1].num_folded == 1


@ON_ONE_BACKEND
def test_folds_through_a_layer_of_the_users_own_that_is_declared_a_dropout():
    class Plain(layers.Layer):
        def call(self, inputs, training=False):
            return inputs * 0.0 if training else inputs

    declared = kerastools.layers.kind("dropout")(type("Declared", (Plain,), {}))
    for cls, num_folded in ((Plain, 0), (declared, 1)):
        model = network((5,), layers.Dense(4), cls(), layers.BatchNormalization())
        assert fold_batch_norm(model, return_report=True)[1].num_folded == num_folded


@ON_ONE_BACKEND
def test_subclasses_fold_unless_they_override_something():
    class Slow(layers.BatchNormalization):
        def __init__(self, **kwargs):
            super().__init__(**{**kwargs, "momentum": 0.999})

    class Other(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return 2.0 * super().call(inputs, training=training, mask=mask)

    assert fold(network((5,), layers.Dense(4), Slow()))[1].num_folded == 1
    other = network((5,), layers.Dense(4), Other(name="other"))
    kept = reasons(fold_batch_norm(other, return_report=True)[1])
    assert kept == {"other": "is a subclass of type Other, whose call is unknown"}


@ON_ONE_BACKEND
def test_two_batch_norms_in_a_row_both_fold():
    model = network((5,), layers.Dense(4), layers.BatchNormalization(), layers.BatchNormalization())
    assert fold(model)[1].num_folded == 2


def residual_network():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.BatchNormalization(name="stem_norm")(x)
    x = layers.ReLU()(x)
    y = layers.DepthwiseConv2D(3, padding="same", name="depth")(x)
    y = layers.BatchNormalization(name="depth_norm")(y)
    y = keras.ops.relu(y)
    y = layers.Conv2D(4, 1, name="point")(y)
    y = layers.BatchNormalization(name="point_norm")(y)
    x = layers.Add()([x, y])
    x = layers.BatchNormalization(name="free_norm")(x)
    x = keras.ops.mean(x * 2.0 + x[:, ::1], axis=(1, 2))
    head = layers.BatchNormalization(name="head_norm")(layers.Dense(5, name="head")(x))
    return randomise(keras.Model(inputs, {"logits": head, "features": x}, name="residual"))


@ON_ONE_BACKEND
def test_functional_graph_with_branches_operators_and_a_dictionary_of_outputs():
    model = residual_network()
    folded, report = fold(model)
    into = {o.layer: o.into for o in report.outcomes}
    assert into == {
        "stem_norm": "stem",
        "depth_norm": "depth",
        "point_norm": "point",
        "free_norm": None,
        "head_norm": "head",
    }
    assert set(folded(sample(model))) == {"logits", "features"}
    assert folded.output_names == model.output_names
    assert [t.name for t in folded.inputs] == ["image"]
    kept = {layer.name for layer in model.layers} - {"stem_norm", "depth_norm", "point_norm"}
    assert kept == {layer.name for layer in folded.layers}


@ON_ONE_BACKEND
def test_several_inputs_in_a_dictionary():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    x = layers.BatchNormalization()(layers.Dense(5)(a))
    y = layers.BatchNormalization()(layers.Dense(5)(b))
    model = randomise(keras.Model({"b": b, "a": a}, [x, layers.Add()([x, y])]))
    assert fold(model)[1].num_folded == 2


def test_nested_models_fold_inside():
    def block(name):
        return keras.Sequential(
            [layers.Dense(4, name="d"), layers.BatchNormalization(name="n"), layers.ReLU()],
            name=name,
        )

    inputs = keras.Input((6,))
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, name="d"), block("deep")], name="x"
    )
    inner.layers[0].trainable = False
    twice = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()])
    model = keras.Model(inputs, twice(twice(inner(inputs))), name="outer")
    folded, report = fold(randomise(model))
    first = report.outcomes[0]
    assert (first.layer, first.into) == ("x/deep/n", "d")
    assert report.num_kept == 0
    assert not folded.get_layer("x").layers[0].trainable
    assert folded.get_layer("x").layers[1].trainable


def nest(shape, *parts, name="inner"):
    return keras.Sequential([keras.Input(shape), *parts], name=name)


@ON_ONE_BACKEND
@pytest.mark.parametrize(
    ("parts", "into"),
    [
        (lambda d, n, r: [d, nest((4,), n, r)], "d"),
        (lambda d, n, r: [nest((5,), d), n, r], "d"),
        (lambda d, n, r: [d, nest((4,), n), r], "d"),
        (lambda d, n, r: [nest((5,), d), nest((4,), nest((4,), n), r, name="other")], "d"),
        (lambda d, n, r: [r, n, nest((5,), d)], "d"),
        (lambda d, n, r: [nest((5,), r, n), d], "d"),
        (lambda d, n, r: [nest((5,), r, n), nest((5,), nest((5,), d), name="other")], "d"),
    ],
    ids=["in", "out", "alone", "in and out", "before, in", "before, out", "before, in and out"],
)
def test_folds_over_the_border_of_a_nested_model_that_is_called_once(parts, into):
    d, n = layers.Dense(4, name="d"), layers.BatchNormalization(name="n")
    report = fold(network((5,), *parts(d, n, layers.ReLU())))[1]
    assert report.outcomes[0].into == into


@ON_ONE_BACKEND
def test_folds_over_the_border_of_a_nested_model_with_several_inputs_and_outputs():
    a, b = keras.Input((5,), name="a"), keras.Input((3,), name="b")
    p, q = layers.Dense(4, name="p")(a), layers.Dense(3, name="q")(b)
    inner = keras.Model({"a": a, "b": b}, {"p": p, "q": q, "r": layers.ReLU(name="r")(q)})
    x, y = keras.Input((5,)), keras.Input((3,))
    normed = [layers.BatchNormalization(name=name) for name in ("na", "nb", "np", "nq")]
    outs = inner({"a": normed[0](layers.ReLU()(x)), "b": normed[1](layers.ReLU()(y))})
    results = [normed[2](outs["p"]), normed[3](outs["q"]), outs["r"]]
    _, report = fold(randomise(keras.Model([x, y], results)))
    into = {o.layer: o.into for o in report.outcomes}
    assert into == {"na": "p", "nb": "q", "np": "p", "nq": None}
    assert reasons(report)["nq"].startswith("the output of q is used several times: by nq, r")


@ON_ONE_BACKEND
def test_folds_into_a_nested_model_whose_inputs_are_passed_by_name():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    outs = [layers.Dense(3, name="p")(a), layers.Dense(3, name="q")(b)]
    two = keras.Model([a, b], layers.Subtract()(outs))
    x = keras.Input((4,))
    y = layers.BatchNormalization()(layers.ReLU()(x))
    assert fold(randomise(keras.Model(x, two({"b": y, "a": x}))))[1].outcomes[0].into == "q"


@ON_ONE_BACKEND
def test_an_image_head_folds_through_flatten_and_pooling_over_two_borders():
    backbone = nest((None, None, 3), layers.Conv2D(4, 3, name="c"), name="backbone")
    head = nest((3, 3, 4), layers.Flatten(), layers.Dense(2, name="h"), name="head")
    norms = [layers.BatchNormalization(name=name) for name in ("n", "m")]
    parts = [backbone, layers.AveragePooling2D(2), norms[0], layers.ReLU(), norms[1], head]
    _, report = fold(network((8, 8, 3), *parts))
    assert [o.into for o in report.outcomes] == ["c", "h"]


def test_the_argument_is_left_alone():
    model = residual_network()
    model.get_layer("depth").trainable = False
    config, weights = model.to_json(), model.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in model.operations]
    outbound = [len(layer._outbound_nodes) for layer in model.operations]
    folded = fold_batch_norm(model)
    folded.set_weights([w * 0 for w in folded.get_weights()])
    assert model.to_json() == config
    assert nodes == [len(layer._inbound_nodes) for layer in model.operations]
    assert outbound == [len(layer._outbound_nodes) for layer in model.operations]
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@ON_ONE_BACKEND
def test_surviving_layers_keep_name_flags_regularizers_dtype_and_random_state():
    keep = layers.Dense(4, kernel_regularizer="l2", name="keep", dtype="mixed_bfloat16")
    model = network(
        (5,),
        layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.25), name="takes"),
        layers.BatchNormalization(),
        layers.Dropout(0.2, seed=3, name="drop"),
        keep,
        name="named",
    )
    model.get_layer("takes").trainable = False
    model(sample(model), training=True)  # moves the random state of the dropout on
    folded = fold_batch_norm(model)
    assert folded.name == "named"
    assert [layer.name for layer in folded.layers] == ["takes", "drop", "keep"]
    assert not folded.get_layer("takes").trainable
    assert folded.get_layer("takes").kernel_regularizer.l2 == pytest.approx(0.25)
    assert folded.get_layer("keep").dtype_policy.name == "mixed_bfloat16"
    assert folded.get_layer("keep").trainable
    states = [m.get_layer("drop").seed_generator.state for m in (model, folded)]
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, states))


def test_the_report_compares_both_models_on_random_or_given_inputs():
    model = network((5,), layers.Dense(4), layers.BatchNormalization(), layers.ReLU())
    assert fold(model)[1].largest_difference is None
    x = sample(model, rows=7)
    for rows in (x, "random"):
        _, report = fold_batch_norm(model, return_report=True, sample=rows)
        assert 0 < report.largest_difference < 1e-6
        assert f"outputs equal to {report.largest_difference:.1e}" in str(report)
        assert report.to_dict()["largest_difference"] == report.largest_difference
    with pytest.raises(ValueError, match=r"needs sample .* at least one row"):
        fold_batch_norm(model, return_report=True, sample=x[:, :2])


@ON_ONE_BACKEND
def test_result_is_sequential_where_the_model_was():
    model = network((5,), layers.Dense(4), layers.BatchNormalization(), layers.ReLU())
    folded = fold_batch_norm(model)
    assert isinstance(folded, keras.Sequential)
    assert [type(layer) for layer in folded.layers] == [layers.Dense, layers.ReLU]


@ON_ONE_BACKEND
def test_output_name_of_a_folded_batch_norm_stays():
    model = network((5,), layers.Dense(4, name="d"), layers.BatchNormalization(name="scores"))
    assert fold_batch_norm(model).layers[-1].name == "scores"


@pytest.mark.tensorflow  # Saving is the same on both.
def test_saved_result_loads_without_kerastools(tmp_path):
    """Even where the trained kernel carried kerastools' constraint and initializer."""
    kernel = {
        "kernel_constraint": kerastools.constraints.MaxNorm(2.0),
        "kernel_initializer": "he_normal",
    }
    model = network((5,), layers.Dense(4, **kernel), layers.BatchNormalization(), layers.ReLU())
    folded = fold_batch_norm(model)
    x = sample(model)
    np.save(tmp_path / "x.npy", x)
    folded.save(tmp_path / "model.keras")
    code = (
        "import sys, numpy as np, keras\n"
        "model = keras.models.load_model('model.keras')\n"
        "assert 'kerastools' not in sys.modules\n"
        "np.save('y.npy', model.predict(np.load('x.npy'), verbose=0))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), outputs(folded, x)[0], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_model_loaded_from_a_legacy_h5_file_folds(tmp_path):
    model = network((8, 8, 3), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU())
    model.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5", compile=False)
    assert fold(loaded)[1].num_folded == 1
    assert_same(model, fold_batch_norm(loaded))


@ON_ONE_BACKEND
def test_folding_twice_changes_nothing_more():
    folded = fold_batch_norm(residual_network())
    again, report = fold_batch_norm(folded, return_report=True)
    assert report.num_folded == 0
    for a, b in zip(folded.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@ON_ONE_BACKEND
def test_model_without_batch_norm_is_copied():
    model = network((5,), layers.Dense(4))
    folded, report = fold(model)
    assert folded is not model
    assert report.outcomes == ()
    assert "0 of 0 batch norms" in str(report)


def test_layers_that_only_a_copy_by_hand_can_carry():
    """A lambda that refers to names of its module, and statistics that live outside the config."""
    normalize = layers.Normalization()
    normalize.adapt(np.random.default_rng(0).normal(3.0, 2.0, size=(50, 5)))
    model = network(
        (5,),
        normalize,
        layers.Dense(4),
        layers.BatchNormalization(),
        layers.Lambda(lambda x: keras.ops.abs(x) + len(PRODUCERS), output_shape=(4,)),
        layers.Reshape((2, 2)),
        layers.LSTM(3),
    )
    assert fold(model)[1].num_folded == 1


@ON_ONE_BACKEND
class TestKept:
    """What must not be folded stays, exact, with its reason."""

    def test_shared_kernel(self):
        a, b = keras.Input((4,)), keras.Input((4,))
        dense = layers.Dense(4, name="shared")
        outs = [layers.BatchNormalization()(dense(a)), dense(b)]
        assert reason(keras.Model([a, b], outs)) == "shared is called 2 times with one kernel"

    def test_kernel_shared_with_a_nested_model(self):
        dense = layers.Dense(4, name="shared")
        inner = keras.Sequential([keras.Input((4,)), dense, layers.ReLU()])
        x = keras.Input((4,))
        model = keras.Model(x, layers.BatchNormalization()(dense(inner(x))))
        assert reason(model) == "shared is called 2 times with one kernel"

    def test_border_of_a_nested_model_that_is_called_twice(self):
        inner = nest((4,), layers.Dense(4))
        x = keras.Input((4,))
        model = keras.Model(x, layers.BatchNormalization()(inner(inner(x))))
        assert reason(model) == "the nested model inner is called 2 times"

    def test_border_of_a_nested_model_that_uses_the_value_too(self):
        a = keras.Input((4,))
        y = layers.Dense(4, name="d")(a)
        inner = keras.Model(a, [y, layers.ReLU(name="r")(y)])
        x = keras.Input((4,))
        p, q = inner(x)
        model = keras.Model(x, [layers.BatchNormalization(name="n")(p), q])
        assert reason(model) == "the output of d is used several times: by n, r"

    def test_nested_model_whose_calls_are_used_differently(self):
        a = keras.Input((4,))
        y = layers.Dense(4)(a)
        inner = keras.Model(a, [y, layers.BatchNormalization(name="n")(y)], name="inner")
        x = keras.Input((4,))
        model = keras.Model(x, inner(inner(x)[1])[0])
        assert reason(model) == "the nested model inner is called 2 times"
        y = layers.ReLU()(a)
        inner = keras.Model(a, [y, layers.BatchNormalization(name="n")(y)], name="inner")
        report = fold(randomise(keras.Model(x, inner(inner(x)[0])[1])))[1]
        assert report.outcomes[0].reason.endswith("nothing takes its output")

    def test_border_at_which_the_shape_changes(self):
        inner = nest((4,), layers.Dense(3))
        x = keras.Input((4, 1))
        model = keras.Model(x, inner(layers.BatchNormalization(axis=1)(layers.ReLU()(x))))
        report = fold(randomise(model))[1]
        assert "inner changes the dtype or shape" in report.outcomes[0].reason

    def test_border_of_a_nested_model_whose_dropout_is_on(self):
        inner = nest((4,), layers.Dense(4), layers.Dropout(0.0, name="on"))
        x = keras.Input((4,))
        model = keras.Model(x, layers.BatchNormalization()(inner(x, training=True)))
        assert re.search(r"on \(Dropout\) takes no fold|training=True", reason(model))

    def test_output_used_elsewhere(self):
        x = keras.Input((4,))
        y = layers.Dense(4, name="d")(x)
        z = layers.BatchNormalization()(y)
        model = keras.Model(x, layers.Concatenate(name="cat")([y, z]))
        assert reason(model).startswith("the output of d is used several times: by b")

    def test_intermediate_output_of_the_model(self):
        x = keras.Input((4,))
        y = layers.Dense(4, name="d")(x)
        model = keras.Model(x, [y, layers.BatchNormalization()(y)])
        assert reason(model) == "the model also returns the output of d"

    def test_activation_in_between(self):
        parts = layers.Dense(4, activation="relu", name="d"), layers.BatchNormalization()
        assert reason(network((4,), *parts)) == "follows the activation relu of d"

    def test_first_in_the_model(self):
        model = network((4,), layers.BatchNormalization(), layers.ReLU())
        assert reason(model) == "follows an input of the model"

    def test_wrong_axis(self):
        model = network((6, 6, 3), layers.Conv2D(4, 3), layers.BatchNormalization(axis=1))
        assert reason(model) == "works along axis 1, while the layer's channels are axis 3"

    def test_negative_variance(self):
        model = network((4,), layers.Dense(4), layers.BatchNormalization())
        model.layers[1].moving_variance.assign([1.0, -0.1, 1.0, 1.0])
        folded, report = fold_batch_norm(model, return_report=True)
        assert num_batch_norms(folded) == 1
        assert report.outcomes[0].reason == "moving_variance + epsilon is -0.099, not positive"

    def test_statistics_that_are_not_finite(self):
        model = network((4,), layers.Dense(4), layers.BatchNormalization())
        model.layers[1].moving_mean.assign([1.0, np.nan, 1.0, 1.0])
        report = fold_batch_norm(model, return_report=True)[1]
        assert report.outcomes[0].reason == "its weights or moving statistics are not finite"

    def test_kernel_out_of_range(self):
        keras.config.set_dtype_policy("mixed_float16")
        model = network((4,), layers.Dense(4, name="d"), layers.BatchNormalization())
        model.layers[1].gamma.assign(np.full(4, 1e6))
        report = fold_batch_norm(model, return_report=True)[1]
        assert "beyond the range of float16" in report.outcomes[0].reason

    def test_training_mode(self):
        x = keras.Input((4,))
        y = layers.BatchNormalization()(layers.Dense(4)(x), training=True)
        assert "training=True" in reason(keras.Model(x, y))

    def test_nested_model_in_training_mode(self):
        inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization()])
        outer = keras.Sequential([keras.Input((4,)), inner])
        x = keras.Input((4,))
        assert "training=True" in reason(keras.Model(x, outer(x, training=True)))

    def test_frozen_call_folds(self):
        x = keras.Input((4,))
        y = layers.BatchNormalization()(layers.Dense(4)(x), training=False)
        assert fold(randomise(keras.Model(x, y)))[1].num_folded == 1

    def test_dropout_that_is_always_on_in_between(self):
        x = keras.Input((4,))
        y = layers.Dropout(0.0, name="on")(layers.Dense(4)(x), training=True)
        kept = keras.Model(x, layers.BatchNormalization()(y, training=False))
        assert reason(kept) == "on (Dropout) takes no fold"

    def test_call_after_one_in_training_mode(self):
        """From Keras 3.16 on the layers behind are in training mode, too."""

        class Always(layers.Layer):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.dropout = layers.Dropout(0.0)

            def call(self, inputs):
                return self.dropout(inputs, training=True)

        inner = nest((4,), layers.Dense(4), layers.BatchNormalization())
        x = keras.Input((4,))
        for on in (Always(), functools.partial(layers.Dropout(0.0), training=True)):
            model = randomise(keras.Model(x, inner(on(x))))
            assert fold(model)[1].num_kept == RECORDED_TRAINING_HOLDS

    def test_explicit_mask(self):
        x, mask = keras.Input((5, 4)), keras.Input((5,), dtype="bool")
        y = layers.BatchNormalization()(layers.Dense(4)(x), mask=mask)
        model = randomise(keras.Model([x, mask], y))
        report = fold_batch_norm(model, return_report=True)[1]
        assert report.outcomes[0].reason == "called with an explicit mask"

    def test_implicit_mask_reaches_the_next_layer(self):
        """A mask matters to a batch norm in training only; it must still pass."""
        x = keras.Input((5, 3))
        y = layers.Dense(4)(layers.Masking(0.0)(x))
        y = layers.LSTM(2)(layers.BatchNormalization()(y))
        model = randomise(keras.Model(x, y))
        data = sample(model)
        data[:, 3:] = 0.0
        folded, report = fold_batch_norm(model, return_report=True)
        assert report.num_folded == 1
        assert_same(model, folded, x=data)

    def test_other_dtype(self):
        model = network((4,), layers.Dense(4, dtype="mixed_bfloat16"), layers.BatchNormalization())
        assert reason(model) == "changes the dtype from bfloat16 to float32"

    def test_lora_kernel(self):
        model = network((4,), layers.Dense(4, name="d"), layers.BatchNormalization())
        model.layers[0].enable_lora(2)
        model.layers[0].lora_kernel_b.assign(np.ones((2, 4)))
        assert reason(model) == "the kernel of d carries a LoRA update: merge it first"

    def test_quantized_kernel(self):
        model = network((8,), layers.Dense(4, name="d"), layers.BatchNormalization())
        model.layers[0].quantize("int8")
        assert reason(model) == "the kernel of d is quantized"

    def test_activity_regularizer(self):
        dense = layers.Dense(4, activity_regularizer="l2", name="d")
        model = network((4,), dense, layers.BatchNormalization())
        assert reason(model) == "the activity regularizer of d reads its input"

    def test_subclasses(self):
        @keras.saving.register_keras_serializable("test_folding")
        class Shifted(layers.Dense):
            def call(self, x):
                return super().call(x) + 1.0

        @keras.saving.register_keras_serializable("test_folding")
        class Normed(layers.BatchNormalization):
            def call(self, x, training=None):
                return super().call(x, training=training) * 2.0

        assert "takes no fold" in reason(network((4,), Shifted(4), layers.BatchNormalization()))
        assert "whose call is unknown" in reason(network((4,), layers.Dense(4), Normed()))

    def test_inside_a_wrapper(self):
        norm = layers.TimeDistributed(layers.BatchNormalization(name="n"), name="td")
        model = network((5, 4), layers.Dense(4), norm)
        assert reason(model) == "lies inside td of type TimeDistributed, whose call is unknown"


@ON_ONE_BACKEND
class TestRefused:
    """Models whose graph cannot be read get an error that says how to mend it."""

    def test_subclassed_model(self):
        class Net(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = layers.Dense(2)

            def call(self, x):
                return self.dense(x)

        net = Net()
        net(np.zeros((1, 3)))
        with pytest.raises(ValueError, match=r"functional or Sequential .* subclass Net"):
            fold_batch_norm(net)

    def test_functional_subclass_with_its_own_call(self):
        class Doubled(keras.Model):
            def call(self, x, training=None):
                return 2 * super().call(x, training=training)

        x = keras.Input((3,))
        with pytest.raises(ValueError, match="something else in its own call"):
            fold_batch_norm(Doubled(x, layers.Dense(2)(x)))

    def test_functional_subclass_without_is_folded(self):
        class Named(keras.Model):
            def train_step(self, data):
                raise NotImplementedError

        x = keras.Input((3,))
        model = Named(x, layers.BatchNormalization()(layers.Dense(2)(x)))
        assert fold(randomise(model))[1].num_folded == 1

    def test_backbone_that_builds_its_graph_in_its_constructor_is_folded(self):
        """As the models of keras-hub do: a subclass with a config and attributes of its own."""

        class Backbone(keras.Model):
            def __init__(self, width, **kwargs):
                stem = layers.Conv2D(width, 3, use_bias=False, name="stem")
                x = keras.Input((None, None, 3), name="images")
                y = layers.ReLU()(layers.BatchNormalization(name="norm")(stem(x)))
                super().__init__(inputs=x, outputs=y, **kwargs)
                self.width, self.stem = width, stem

            def get_config(self):
                return {"name": self.name, "width": self.width}

        backbone = Backbone(4, name="backbone")
        x = keras.Input((8, 8, 3))
        y = layers.Dense(2)(layers.GlobalAveragePooling2D()(backbone(x)))
        model = randomise(keras.Model(x, y))
        assert fold(model)[1].outcomes[0].into == "stem"
        batch = sample(model)
        folded = fold_batch_norm(backbone)
        assert_same(backbone, folded, x=batch)
        assert folded.name == "backbone"
        assert len(folded.layers) == len(backbone.layers) - 1

    def test_unbuilt_model(self):
        with pytest.raises(ValueError, match="needs a built model"):
            fold_batch_norm(keras.Sequential([layers.Dense(2), layers.BatchNormalization()]))

    def test_no_model(self):
        with pytest.raises(TypeError, match=r"keras\.Model"):
            fold_batch_norm("model.keras")

    def test_layer_that_cannot_be_copied(self):
        class Opaque(layers.Layer):
            def __init__(self, units):
                super().__init__()
                self.units = units

            def call(self, x):
                return x

            def get_config(self):
                return {"name": self.name}

        with pytest.raises(ValueError, match="complete get_config"):
            fold_batch_norm(network((3,), Opaque(2)))


def test_masked_sequential_models_fold_and_stay_sequential():
    model = keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.Masking(),
            layers.Dense(3),
            layers.BatchNormalization(),
            layers.Bidirectional(layers.GRU(2)),
            layers.Dense(2),
        ]
    )
    folded, report = fold(randomise(model))
    assert isinstance(folded, keras.Sequential)
    assert report.num_folded + report.num_kept == 1


def test_an_output_whose_layer_stays_for_another_call_leaves_an_identity_of_another_name():
    a, b = keras.Input((4,)), keras.Input((4,))
    norm = layers.BatchNormalization(name="norm")
    folded, report = fold(
        randomise(keras.Model([a, b], [layers.ReLU()(norm(a)), norm(layers.Dense(4)(b))]))
    )
    assert report.num_folded == 1
    assert folded.output_names[1] == "norm_folded"


def test_an_output_folded_in_both_calls_keeps_its_name():
    a, b = keras.Input((4,)), keras.Input((4,))
    norm = layers.BatchNormalization(name="norm")
    model = keras.Model([a, b], [norm(layers.Dense(4)(a)), norm(layers.Dense(4)(b))])
    folded, report = fold(randomise(model))
    assert report.num_folded == 2
    assert folded.output_names == ["norm", "norm"]


@keras.saving.register_keras_serializable("test_folding")
class Block(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 3, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], 4))

    def call(self, x, training=None):
        return keras.ops.relu(self.norm(self.conv(x), training=training))


def test_layers_of_the_users_own_are_folded_inside(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), Block(name="a"), layers.Conv2D(4, 1), Block(name="b")]
    )
    folded, report = fold(randomise(model))
    assert (report.num_folded, report.num_kept) == (2, 0)
    assert isinstance(folded, keras.Sequential)
    assert [layer.name for layer in folded.layers][::2] == ["a", "b"]
    folded.save(tmp_path / "folded.keras")
    assert_same(folded, keras.models.load_model(tmp_path / "folded.keras"))
