import keras
import numpy as np
import pytest
from keras import ops

from kerastools.constraints import MaxNorm


def project(w, **arguments):
    return ops.convert_to_numpy(MaxNorm(**arguments)(w))


def reference(w, r, axis):
    """The definition, in float64."""
    w = np.asarray(w, "float64")
    norm = np.sqrt((w**2).sum(axis=axis, keepdims=True))
    return np.where(norm > r, w * r / np.maximum(norm, 1e-300), w)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((30, 20), 0),
        ((5, 8, 6), (0, 1)),
        ((3, 3, 16, 12), (0, 1, 2)),
        ((2, 3, 3, 4, 5), (0, 1, 2, 3)),
    ],
    ids=["Dense", "Conv1D", "Conv2D", "Conv3D"],
)
def test_auto_bounds_what_one_unit_sums_over(shape, axis):
    w = np.random.default_rng(1).normal(size=shape).astype("float32")
    w *= np.geomspace(0.01, 3, shape[-1], dtype="float32")
    got = project(w, max_value=1.0)
    np.testing.assert_allclose(got, reference(w, 1.0, axis), rtol=1e-6)
    assert np.sqrt((got.astype("float64") ** 2).sum(axis=axis)).max() <= 1 + 1e-6


def test_explicit_axes_fit_depthwise_and_transposed_kernels():
    w = np.random.default_rng(2).normal(size=(3, 3, 8, 4)).astype("float32") * 5
    for axis in [(0, 1), (0, 1, 3)]:
        np.testing.assert_allclose(
            project(w, max_value=2.0, axis=axis), reference(w, 2.0, axis), rtol=1e-6
        )


def test_a_bias_is_bounded_as_a_whole_as_in_keras():
    bias = np.float32([3.0, 4.0])
    theirs = ops.convert_to_numpy(keras.constraints.MaxNorm(1.0)(bias))
    np.testing.assert_allclose(project(bias, max_value=1.0), theirs, rtol=1e-6)
    assert project(np.float32(3.0), max_value=1.0) == 1
    assert project(np.zeros((0, 2), "float32"), max_value=1.0).shape == (0, 2)


def test_keras_bounds_only_a_kernel_row():
    w = np.random.default_rng(1).normal(size=(3, 3, 16, 4)).astype("float32")
    kept = ops.convert_to_numpy(keras.constraints.MaxNorm(2.0)(w))
    assert np.sqrt((kept**2).sum(axis=(0, 1, 2))).min() > 6


@pytest.mark.parametrize(
    "dtype",
    # JAX has no float64 unless it is switched on for the whole process.
    ["float16", "bfloat16", "float32", pytest.param("float64", marks=pytest.mark.tensorflow)],
)
def test_a_thousand_projections_equal_one_bitwise(dtype):
    w = ops.cast(np.random.default_rng(3).normal(size=(300, 64)), dtype)
    constraint = MaxNorm(2.0)
    once = again = constraint(w)
    for _ in range(1000 if dtype == "float32" else 50):
        again = constraint(again)
    assert bool(ops.all(once == again))


def test_weights_inside_the_bound_are_untouched_to_the_bit():
    w = np.random.default_rng(4).normal(size=(40, 10)).astype("float32") * 0.01
    np.testing.assert_array_equal(project(w), w)


def test_float16_does_not_overflow():
    w = np.full((1000, 1), 300 / np.sqrt(1000), "float16")
    assert float(np.linalg.norm(project(w).astype("float64"))) == pytest.approx(2.0, abs=0.01)


def test_zero_weights_stay_zero():
    np.testing.assert_array_equal(project(np.zeros((3, 2), "float32")), 0.0)


def test_fit_keeps_every_filter_within_the_bound():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(6, 3, kernel_constraint=MaxNorm(0.5)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_constraint=MaxNorm(0.4)),
        ]
    )
    model.compile(keras.optimizers.SGD(1.0), "mse")
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(32, 8, 8, 2)), rng.normal(size=(32, 3))
    model.fit(x, y, epochs=3, verbose=0)
    conv, dense = (w for w in model.get_weights() if w.ndim > 1)
    norms = np.sqrt((conv.astype("float64") ** 2).sum(axis=(0, 1, 2)))
    assert norms.max() == pytest.approx(0.5, rel=1e-6)
    assert np.sqrt((dense.astype("float64") ** 2).sum(axis=0)).max() <= 0.4 * (1 + 1e-6)


@pytest.mark.parametrize("arguments", [{"max_value": 0}, {"max_value": -1.0}, {"axis": "columns"}])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="MaxNorm needs"):
        MaxNorm(**arguments)


def test_axes_may_depend_on_the_shape():
    rng = np.random.default_rng(1)
    constraint = MaxNorm(1.0, {"6x2x3": (0,), "2x3x6": (0, 1)})
    for shape, axis in [((6, 2, 3), 0), ((2, 3, 6), (0, 1))]:
        w = rng.normal(size=shape).astype("float32") * 3
        got = ops.convert_to_numpy(constraint(w))
        np.testing.assert_allclose(got, reference(w, 1.0, axis), rtol=1e-6)
    with pytest.raises(ValueError, match="4x4"):
        constraint(np.ones((4, 4)))


def test_once_per_update_under_gradient_accumulation():
    def trained(steps, rows):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        layer = model.layers[0]
        layer.kernel.assign(np.linspace(-0.7, 0.7, 12).reshape(4, 3))
        layer.kernel.constraint = MaxNorm(1.5)
        model.compile(keras.optimizers.SGD(0.5, gradient_accumulation_steps=steps), "mse")
        model.fit(*data, batch_size=rows, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()[0]

    rng = np.random.default_rng(2)
    data = rng.normal(size=(32, 4)), 5 * rng.normal(size=(32, 3))
    np.testing.assert_allclose(trained(4, 4), trained(None, 16), rtol=1e-5, atol=1e-6)
