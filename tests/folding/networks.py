"""Networks to fold, with weights that hide no mistake, and the check that folding is exact."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastools._core.graph.calls import Graph, sublayers
from kerastools.folding import fold_batch_norm

# What was decided in NumPy and in the graph is decided alike on every backend.
ON_ONE_BACKEND = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="does not depend on the backend"
)
BIAS = pytest.mark.parametrize(
    "use_bias",
    [pytest.param(True, id="bias"), pytest.param(False, id="no bias", marks=ON_ONE_BACKEND)],
)


def randomise(model, seed=0):
    """Gives every weight a random value: mixed-sign γ, statistics far from 0 and 1."""
    rng = np.random.default_rng(seed)
    for layer in sublayers(model):
        if not isinstance(layer, keras.Model):
            if isinstance(layer, layers.BatchNormalization):
                for v in layer.weights:
                    low = 0.05 if "variance" in v.path else -2.0
                    v.assign(rng.uniform(low, 2.0, v.shape))
            elif isinstance(layer, layers.Dense | layers.Conv2D) and layer.use_bias:
                layer.bias.assign(rng.normal(size=layer.bias.shape))
    return model


def sample(model, rows=3, seed=1):
    rng = np.random.default_rng(seed)
    draw = [rng.normal(size=(rows, *t.shape[1:])).astype(t.dtype) for t in model.inputs]
    return keras.tree.pack_sequence_as(Graph(model).input_structure, draw)


def outputs(model, x):
    flat = keras.tree.flatten(model(x, training=False))
    return [keras.ops.convert_to_numpy(y).astype("float64") for y in flat]


def assert_same(model, folded, tolerance=1e-5, x=None):
    x = sample(model) if x is None else x
    for want, got in zip(outputs(model, x), outputs(folded, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def num_batch_norms(model):
    return sum(isinstance(x, layers.BatchNormalization) for x in sublayers(model))


def fold(model, tolerance=1e-5):
    """Folds a randomised model, checks that both compute the same, returns result and report."""
    folded, report = fold_batch_norm(model, return_report=True)
    assert_same(model, folded, tolerance)
    assert report.num_kept == num_batch_norms(folded)
    return folded, report


def reasons(report):
    """Returns the reason of each outcome by the layer's name."""
    return {o.layer: o.reason for o in report.outcomes}


def network(shape, *parts, **kwargs):
    return randomise(keras.Sequential([keras.Input(shape), *parts], **kwargs))


LINEAR = {
    "dense": ((5,), lambda **k: layers.Dense(4, **k)),
    "dense on sequences": ((6, 5), lambda **k: layers.Dense(4, **k)),
    "conv1d": ((9, 3), lambda **k: layers.Conv1D(4, 3, **k)),
    "strided conv2d": ((7, 8, 3), lambda **k: layers.Conv2D(4, 3, strides=2, **k)),
    "dilated conv2d": ((9, 9, 3), lambda **k: layers.Conv2D(4, 3, dilation_rate=2, **k)),
    "grouped conv2d": ((7, 8, 4), lambda **k: layers.Conv2D(6, 3, groups=2, **k)),
    "1×1 same conv2d": ((7, 8, 3), lambda **k: layers.Conv2D(4, 1, padding="same", **k)),
    "conv3d": ((5, 5, 4, 2), lambda **k: layers.Conv3D(3, 2, **k)),
    "depthwise conv1d": ((9, 3), lambda **k: layers.DepthwiseConv1D(3, **k)),
    "depthwise conv2d, multiplier 2": (
        (7, 8, 3),
        lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k),
    ),
    "separable conv1d": ((9, 3), lambda **k: layers.SeparableConv1D(4, 3, **k)),
    "separable conv2d, multiplier 2": (
        (7, 8, 3),
        lambda **k: layers.SeparableConv2D(4, 3, depth_multiplier=2, **k),
    ),
}
# These pad with zeros or spread their input: a shift before them would not reach every place.
PRODUCERS = {
    **LINEAR,
    "same conv2d": ((7, 8, 3), lambda **k: layers.Conv2D(4, 3, padding="same", **k)),
    "causal conv1d": ((9, 3), lambda **k: layers.Conv1D(4, 3, padding="causal", **k)),
    "conv1d transpose": ((5, 3), lambda **k: layers.Conv1DTranspose(4, 3, strides=2, **k)),
    "conv2d transpose": ((5, 4, 3), lambda **k: layers.Conv2DTranspose(4, 3, strides=2, **k)),
    "conv3d transpose": ((3, 3, 3, 2), lambda **k: layers.Conv3DTranspose(3, 2, **k)),
}
CONSUMERS = LINEAR
