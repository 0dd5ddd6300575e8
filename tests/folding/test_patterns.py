"""Every way a batch norm can go: through layers, over branches, into what comes after it."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastools.folding import fold_batch_norm
from tests.folding.networks import (
    BIAS,
    CONSUMERS,
    ON_ONE_BACKEND,
    assert_same,
    fold,
    network,
    num_batch_norms,
    randomise,
    reasons,
)

# What is decided here is decided alike on both; that it is exact there, too, is in
# test_fold_batch_norm.py.
pytestmark = pytest.mark.tensorflow


@BIAS
@pytest.mark.parametrize("name", CONSUMERS)
def test_batch_norm_folds_forward_into_the_linear_layer_after_it(name, use_bias):
    shape, consumer = CONSUMERS[name]
    linear = consumer(use_bias=use_bias, activation="tanh", name="c")
    model = network(shape, layers.ReLU(), layers.BatchNormalization(), linear)
    _, report = fold(model)
    assert report.outcomes[0].into == "c"


@ON_ONE_BACKEND
def test_dense_relu_batch_norm_stacks_fold_completely():
    """The order that Keras users write most, where nothing folds backwards."""
    model = network(
        (6,),
        layers.Dense(8, activation="relu"),
        layers.BatchNormalization(),
        layers.Dropout(0.2),
        layers.Dense(8, activation="relu"),
        layers.BatchNormalization(),
        layers.Dense(3, activation="softmax"),
    )
    folded, report = fold(model)
    assert report.num_folded == 2
    assert len(folded.layers) == 4


@ON_ONE_BACKEND
def test_convolutions_with_relu_fold_forward_through_pooling_and_flatten():
    model = network(
        (12, 12, 3),
        layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Conv2D(5, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.AveragePooling2D(2, padding="same"),
        layers.Flatten(),
        layers.Dense(3),
    )
    assert fold(model)[1].num_folded == 2


@ON_ONE_BACKEND
def test_folds_into_all_consumers_at_once():
    x = keras.Input((8, 8, 3))
    z = layers.BatchNormalization(name="n")(layers.ReLU()(x))
    a = layers.Conv2D(4, 1, padding="same", name="a")(z)
    b = layers.DepthwiseConv2D(3, name="b")(z)
    c = layers.Dense(4, name="c")(layers.GlobalAveragePooling2D()(z))
    _, report = fold(randomise(keras.Model(x, [a, b, c])))
    assert set(report.outcomes[0].into.split(" and ")) == {"a", "b", "c"}


@ON_ONE_BACKEND
def test_one_consumer_that_cannot_keeps_all_others_as_they_were():
    x = keras.Input((8, 8, 3))
    z = layers.BatchNormalization(name="n")(layers.ReLU()(x))
    model = keras.Model(x, [layers.Conv2D(4, 1)(z), layers.ReLU()(z)])
    folded, report = fold(randomise(model), tolerance=0)
    assert report.num_folded == 0
    assert num_batch_norms(folded) == 1


@pytest.mark.parametrize(
    "same",
    [
        layers.Conv2D(4, 3, padding="same"),
        layers.SeparableConv2D(4, 3, padding="same"),
        layers.Conv2DTranspose(4, 3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_shift_does_not_pass_zero_padding_but_a_scale_does(same):
    model = network((8, 8, 3), layers.ReLU(), layers.BatchNormalization(name="n"), same)
    folded, report = fold(model)
    assert "but for its shift, which a Rescaling adds" in report.outcomes[0].into
    assert report.num_folded == 1
    assert type(folded.get_layer("n")) is layers.Rescaling
    scale = layers.BatchNormalization(center=False, name="n")
    model = network((8, 8, 3), layers.ReLU(), scale, type(same).from_config(same.get_config()))
    scale.moving_mean.assign(np.zeros(3))
    assert fold(model)[1].num_folded == 1


def test_a_shift_that_stays_is_exact_in_float64_and_survives_saving(tmp_path):
    keras.config.set_dtype_policy("float64")
    same = layers.Conv2D(4, 3, padding="same")
    model = network((8, 8, 3), layers.ReLU(), layers.BatchNormalization(), same)
    folded, _ = fold(model, tolerance=1e-12)
    folded.save(tmp_path / "model.keras")
    assert_same(model, keras.models.load_model(tmp_path / "model.keras"), tolerance=1e-12)


@ON_ONE_BACKEND
@pytest.mark.parametrize("gamma", [[0.0, 1.0, 1.0], [1e-5, 1.0, 1.0]], ids=["zero", "tiny"])
def test_a_scale_that_cannot_be_taken_out_keeps_the_batch_norm(gamma):
    norm = layers.BatchNormalization(name="n")
    same = layers.Conv2D(4, 3, padding="same")
    model = network((8, 8, 3), layers.ReLU(), norm, same)
    norm.gamma.assign(gamma)
    assert "pads its input with zeros" in reasons(fold(model)[1])["n"]


@ON_ONE_BACKEND
def test_scales_before_same_convolutions_fold_through_pooling_into_all_of_them():
    x = keras.Input((8, 8, 3))
    z = layers.BatchNormalization(name="n")(layers.ReLU()(x))
    a = layers.Conv2D(4, 3, padding="same", name="a")(layers.AveragePooling2D(2)(z))
    b = layers.Conv2D(4, 1, name="b")(z)
    _, report = fold(randomise(keras.Model(x, [a, b])))
    assert report.outcomes[0].into.startswith(("a and b", "b and a"))


@ON_ONE_BACKEND
def test_zero_padding_passes_a_scale_only():
    parts = lambda norm: (layers.Conv2D(4, 3), layers.ZeroPadding2D(1, name="pad"), norm)  # noqa: E731
    model = network((8, 8, 3), *parts(layers.BatchNormalization(name="n")))
    assert "pad pads with zeros" in reasons(fold(model)[1])["n"]
    norm = layers.BatchNormalization(center=False)
    model = network((8, 8, 3), *parts(norm))
    norm.moving_mean.assign(np.zeros(4))
    assert fold(model)[1].num_folded == 1


PASSAGES = {
    "average pooling": ((8, 8, 3), lambda: layers.AveragePooling2D(2)),
    "average pooling, same": ((7, 7, 3), lambda: layers.AveragePooling2D(3, 2, padding="same")),
    "average pooling 1d": ((9, 3), lambda: layers.AveragePooling1D(3, 2, padding="same")),
    "average pooling 3d": ((4, 4, 4, 2), lambda: layers.AveragePooling3D(2)),
    "global average pooling": ((5, 5, 3), lambda: layers.GlobalAveragePooling2D()),
    "global average pooling, keepdims": (
        (5, 5, 3),
        lambda: layers.GlobalAveragePooling2D(keepdims=True),
    ),
    "global average pooling 1d": ((5, 3), lambda: layers.GlobalAveragePooling1D()),
    "flatten": ((4, 3, 2), lambda: layers.Flatten()),
    "reshape": ((4, 6), lambda: layers.Reshape((2, 2, 6))),
    "upsampling": ((3, 3, 2), lambda: layers.UpSampling2D(2)),
    "bilinear upsampling": ((3, 3, 2), lambda: layers.UpSampling2D(2, interpolation="bilinear")),
    "upsampling 1d": ((3, 2), lambda: layers.UpSampling1D(2)),
    "cropping": ((6, 6, 2), lambda: layers.Cropping2D(1)),
    "cropping 1d": ((6, 2), lambda: layers.Cropping1D(1)),
    "dropout": ((6, 2), lambda: layers.SpatialDropout1D(0.5)),
}


@ON_ONE_BACKEND
@pytest.mark.parametrize("name", [n for n in PASSAGES if n not in ("flatten", "reshape")])
def test_folds_backwards_through(name):
    shape, between = PASSAGES[name]
    model = network(shape, layers.Dense(4), between(), layers.BatchNormalization())
    assert fold(model)[1].num_folded == 1


@pytest.mark.parametrize("name", PASSAGES)
def test_folds_forwards_through(name):
    shape, between = PASSAGES[name]
    parts = layers.ReLU(), layers.BatchNormalization(), between(), layers.Dense(4)
    assert fold(network(shape, *parts))[1].num_folded == 1


@ON_ONE_BACKEND
def test_dense_reshaped_to_an_image_takes_a_batch_norm_over_its_channels():
    """The first block of an image generator."""
    model = network(
        (6,),
        layers.Dense(3 * 3 * 4),
        layers.Reshape((3, 3, 4)),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2DTranspose(2, 3, strides=2),
        layers.BatchNormalization(),
    )
    assert fold(model)[1].num_folded == 2


@ON_ONE_BACKEND
def test_flattened_features_fold_backwards_only_where_each_has_its_own_weights():
    norm = lambda: layers.BatchNormalization(name="n")  # noqa: E731
    model = network((4, 3), layers.Conv1D(2, 1), layers.Flatten(), norm())
    assert "while the layer's channels are axis 2" in reasons(fold(model)[1])["n"]
    model = network((6,), layers.Dense(12), layers.Reshape((4, 3)), layers.Flatten(), norm())
    assert fold(model)[1].num_folded == 1


@ON_ONE_BACKEND
def test_reshape_of_open_sizes_is_refused():
    model = network(
        (None, 4), layers.Dense(4), layers.Reshape((-1, 2)), layers.BatchNormalization()
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    folded, report = fold_batch_norm(model, return_report=True)
    assert report.num_folded == 0
    assert_same(model, folded, x=x)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_max_pooling_passes_only_positive_scales(padding):
    def build():
        pool = layers.MaxPooling2D(3, 2, padding=padding, name="pool")
        return network((9, 9, 3), layers.Conv2D(4, 3), pool, layers.BatchNormalization(name="n"))

    model = build()
    model.layers[-1].gamma.assign([0.5, -1.0, 2.0, 3.0])
    assert "not every scale is positive" in reasons(fold(model)[1])["n"]
    model.layers[-1].gamma.assign([0.5, 1.0, 2.0, 3.0])
    assert fold(model)[1].num_folded == 1


def test_splits_over_concatenate():
    x = keras.Input((8, 8, 3))
    a = layers.Conv2D(2, 3, padding="same", name="a")(x)
    b = layers.AveragePooling2D(3, 1, padding="same")(layers.Conv2D(3, 1, name="b")(x))
    z = layers.BatchNormalization(name="n")(layers.Concatenate()([a, b]))
    _, report = fold(randomise(keras.Model(x, layers.ReLU()(z))))
    assert report.outcomes[0].into == "a and b"


@ON_ONE_BACKEND
def test_concatenate_along_another_axis_passes_whole():
    x = keras.Input((8, 3))
    parts = [layers.Conv1D(4, 3)(x), layers.Conv1D(4, 2)(x)]
    z = layers.BatchNormalization()(layers.Concatenate(axis=1)(parts))
    assert fold(randomise(keras.Model(x, z)))[1].num_folded == 1


def test_splits_over_add_with_the_shift_in_one_branch():
    x = keras.Input((8, 8, 3))
    parts = [layers.Conv2D(4, 3, padding="same")(x) for _ in range(3)]
    z = layers.BatchNormalization()(layers.Add()(parts))
    assert fold(randomise(keras.Model(x, z)))[1].num_folded == 1


@ON_ONE_BACKEND
def test_add_with_an_identity_branch_or_broadcasting_is_refused():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(3, 3, padding="same")(x)
    model = keras.Model(x, layers.BatchNormalization(name="n")(layers.Add()([x, y])))
    assert "follows an input" in reasons(fold(randomise(model))[1])["n"]
    a, b = keras.Input((4, 3)), keras.Input((1, 3))
    z = layers.Add()([layers.Dense(3)(a), layers.Dense(3)(b)])
    model = keras.Model([a, b], layers.BatchNormalization(name="n")(z))
    assert "different shapes" in reasons(fold(randomise(model))[1])["n"]


@ON_ONE_BACKEND
def test_add_of_a_tensor_to_itself_is_refused():
    x = keras.Input((4,))
    y = layers.Dense(3)(x)
    model = keras.Model(x, layers.BatchNormalization(name="n")(layers.Add()([y, y])))
    assert "used several times" in reasons(fold(randomise(model))[1])["n"]


EINSUMS = pytest.mark.parametrize(
    ("shape", "equation", "output_shape", "bias_axes"),
    [
        ((6, 5), "abc,cd->abd", (6, 4), "d"),
        ((6, 5), "abc,cd->abd", (6, 4), None),
        ((6, 5), "...x,xy->...y", 4, None),
        ((6, 5), "abc,cde->abde", (6, 2, 3), None),
        ((6, 5), "abc,cde->abde", (6, 2, 3), "de"),
        ((6, 2, 3), "abcd,cde->abe", (6, 4), None),
    ],
)


@EINSUMS
def test_einsum_dense_takes_a_batch_norm_after_it(shape, equation, output_shape, bias_axes):
    einsum = layers.EinsumDense(equation, output_shape, bias_axes=bias_axes)
    assert fold(network(shape, einsum, layers.BatchNormalization()))[1].num_folded == 1


@EINSUMS
def test_einsum_dense_takes_a_batch_norm_before_it(shape, equation, output_shape, bias_axes):
    einsum = layers.EinsumDense(equation, output_shape, bias_axes=bias_axes, activation="tanh")
    parts = layers.ReLU(), layers.BatchNormalization(), einsum
    assert fold(network(shape, *parts))[1].num_folded == 1


@ON_ONE_BACKEND
@pytest.mark.parametrize(
    ("equation", "axis", "whole"),
    [
        ("abc,cd->adb", -1, True),  # the bias gets an axis that is not the last
        ("abc,bcd->abd", 1, True),  # a kernel of its own at every place
        ("abc,bd->acd", 1, True),
        ("abc,cd->ad", -1, False),  # sums the shift over b, which has no weights
        ("abc,cd->abd", 1, False),
    ],
)
def test_einsum_dense_before_which_the_axes_matter(equation, axis, whole):
    sizes = {"b": 6, "c": 5, "d": 4}
    einsum = layers.EinsumDense(equation, [sizes[c] for c in equation.split("->a")[1]])
    norm = layers.BatchNormalization(axis=axis)
    folded, _ = fold(network((6, 5), layers.ReLU(), norm, einsum))
    assert (len(folded.layers) == 2) == whole


@ON_ONE_BACKEND
def test_einsum_dense_takes_a_batch_norm_over_its_heads():
    einsum = layers.EinsumDense("abc,cde->abde", (6, 2, 3), bias_axes="e")
    assert fold(network((6, 5), einsum, layers.BatchNormalization(axis=2)))[1].num_folded == 1


@ON_ONE_BACKEND
def test_einsum_dense_refuses_axes_without_weights():
    einsum = layers.EinsumDense("abc,cd->abd", (6, 4))
    model = network((6, 5), einsum, layers.BatchNormalization(axis=1, name="n"))
    assert "no weights for" in reasons(fold(model)[1])["n"]


@ON_ONE_BACKEND
def test_batch_norms_in_a_row_at_the_input_fold_forward():
    model = network((5,), layers.BatchNormalization(), layers.BatchNormalization(), layers.Dense(4))
    assert fold(model)[1].num_folded == 2


def test_rescaling_and_normalization_at_the_input_fold_into_the_first_layer():
    normalize = layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])
    model = network(
        (8, 8, 3),
        layers.Rescaling(1 / 255),
        normalize,
        layers.Conv2D(4, 3, strides=2, activation="relu"),
    )
    folded, report = fold(model)
    assert [o.into is None for o in report.outcomes] == [False, False]
    assert report.num_folded == report.num_kept == 0
    assert len(folded.layers) == 1


def test_adapted_normalization_folds():
    normalize = layers.Normalization()
    normalize.adapt(np.random.default_rng(0).normal(2.0, 3.0, size=(99, 5)))
    folded, report = fold(network((5,), normalize, layers.Dense(4)))
    assert len(folded.layers) == 1
    assert report.outcomes[0].into


@ON_ONE_BACKEND
def test_rescaling_without_offset_passes_same_padding():
    parts = layers.Rescaling(1 / 127.5), layers.Conv2D(4, 3, padding="same")
    assert len(fold(network((8, 8, 3), *parts))[0].layers) == 1
    parts = layers.Rescaling(1 / 127.5, offset=-1), layers.Conv2D(4, 3, padding="same")
    assert len(fold(network((8, 8, 3), *parts))[0].layers) == 2


@ON_ONE_BACKEND
def test_normalization_far_from_zero_is_kept_because_subtracting_first_is_more_exact():
    year = layers.Normalization(mean=[2020.0], variance=[1.0], name="n")
    assert "more exact" in reasons(fold(network((1,), year, layers.Dense(4)))[1])["n"]


@ON_ONE_BACKEND
def test_integer_input_is_not_given_to_a_layer_that_expects_floats():
    x = keras.Input((8, 8, 3), dtype="uint8")
    y = layers.Conv2D(4, 3)(layers.Rescaling(1 / 255, name="n")(x))
    _, report = fold_batch_norm(keras.Model(x, y), return_report=True)
    assert "changes the dtype" in reasons(report)["n"]


@ON_ONE_BACKEND
def test_masked_average_is_left_alone():
    x = keras.Input((5, 3))
    y = layers.Dense(4)(layers.Masking(0.0)(x))
    y = layers.BatchNormalization(name="n")(layers.GlobalAveragePooling1D()(y))
    model = randomise(keras.Model(x, y))
    assert "takes no fold" in reasons(fold_batch_norm(model, return_report=True)[1])["n"]


def half_precision_net(kind, policy, mean, std):
    """Returns a net that computes in half precision after a normalization, and x of its kind."""
    x = np.random.default_rng(0).normal(mean, std, (256, 6)).astype("float32")
    inputs = keras.Input((6,))
    if kind == "batch":
        norm = layers.BatchNormalization()
    else:
        norm = layers.Normalization()
        norm.adapt(x)
    hidden = layers.Dense(16, activation="tanh", dtype=policy)(norm(inputs))
    model = keras.Model(inputs, layers.Dense(1, dtype="float32")(hidden))
    if kind == "batch":
        norm.moving_mean.assign(x.mean(0))
        norm.moving_variance.assign(x.var(0))
    return model, x


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    ("mean", "std"), [(0.3, 1), (20, 1), (1e3, 1), (0, 1e4), (0, 1e-7)], ids=str
)
@pytest.mark.parametrize("kind", ["batch", "feature"])
def test_nothing_is_rounded_to_half_precision_that_was_not(kind, mean, std, policy):
    """x is far from zero where the layer was given x normalized, or beyond the range of float16."""
    model, x = half_precision_net(kind, policy, mean, std)
    folded, report = fold_batch_norm(model, return_report=True)
    exact = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "dtype": "float64"}
        ),
    )
    exact.set_weights(model.get_weights())
    want, before, after = (keras.ops.convert_to_numpy(m(x)) for m in (exact, model, folded))
    assert np.abs(after - want).max() <= 2 * np.abs(before - want).max() + 1e-6
    if (mean, std) == (0.3, 1):
        assert report.outcomes[0].into == model.layers[2].name


def test_an_average_in_half_precision_is_of_what_was_averaged():
    keras.config.set_dtype_policy("mixed_bfloat16")
    parts = [layers.ReLU(), layers.BatchNormalization(), layers.GlobalAveragePooling2D(name="mean")]
    _, report = fold(network((6, 6, 3), *parts, layers.Dense(4)), tolerance=0)
    assert "mean averages in bfloat16" in report.outcomes[0].reason


@pytest.mark.parametrize(("rows", "units"), [(None, 3), (2, 4), (1, 2)])
def test_batch_norm_after_rows_of_several_branches_goes_into_each(rows, units):
    a, b = keras.Input(batch_shape=(rows, 4)), keras.Input(batch_shape=(rows, 4))
    joined = layers.Concatenate(axis=0)([layers.Dense(units)(a), layers.Dense(units)(b)])
    model = randomise(keras.Model([a, b], layers.BatchNormalization()(joined)))
    folded, report = fold_batch_norm(model, return_report=True)
    assert report.num_folded == 1
    x = [np.random.default_rng(i).normal(size=(rows or 3, 4)) for i in (0, 1)]
    assert_same(model, folded, x=x)
