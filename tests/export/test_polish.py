"""The small changes before an export compute the same, and happen only where they do."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastools.export._polish import keep_apart, polish
from kerastools.folding import fold_batch_norm
from tests.folding.networks import assert_same, randomise

pytestmark = pytest.mark.tensorflow


def padded(size, padding, *parts):
    return randomise(
        keras.Sequential([keras.Input((size, size, 2)), layers.ZeroPadding2D(padding), *parts])
    )


@pytest.mark.parametrize("layer", [layers.Conv2D, layers.DepthwiseConv2D])
@pytest.mark.parametrize(
    ("size", "padding", "options", "merges"),
    [
        (8, ((0, 1), (0, 1)), {"strides": 2}, True),
        (7, 1, {"strides": 2}, True),
        (7, 1, {}, True),
        (9, 2, {"dilation_rate": 2}, True),
        (8, 1, {"strides": 2}, False),
        (8, 2, {}, False),
        (8, 1, {"padding": "same"}, False),
        (None, 1, {}, False),
    ],
)
def test_zero_padding_merges_where_same_pads_alike(layer, size, padding, options, merges):
    units = {"filters": 3} if layer is layers.Conv2D else {}
    model = padded(size, padding, layer(kernel_size=3, **units, **options))
    polished = fold_batch_norm(model)
    polish(polished)
    assert (polished.layers[-1].padding != model.layers[-1].padding) == merges
    x = np.random.default_rng(0).normal(size=(2, size or 9, size or 9, 2)).astype("float32")
    assert_same(model, polished, x=x)


def test_padding_that_others_see_stays():
    x = keras.Input((7, 7, 2))
    y = layers.ZeroPadding2D(1)(x)
    model = keras.Model(x, [layers.Conv2D(3, 3)(y), y])
    polish(polished := fold_batch_norm(model))
    assert_same(model, polished)
    shared = layers.Conv2D(2, 3)
    model = keras.Model(x, shared(layers.ZeroPadding2D(1)(shared(x))))
    polish(polished := fold_batch_norm(model))
    assert_same(model, polished)


def test_silu_is_spelled_out():
    model = keras.Sequential(
        [keras.Input((7, 7, 2)), layers.Conv2D(2, 3, activation="silu"), layers.Activation("swish")]
    )
    polish(polished := fold_batch_norm(model))
    assert polished.layers[-1].activation is not keras.activations.silu
    assert_same(model, polished)


def test_activations_that_are_slow_when_fused_stay_apart_from_variable_weights():
    """In the graph something stands between the bias and the activation; it computes the same."""
    import tensorflow as tf

    model = randomise(
        keras.Sequential(
            [
                keras.Input((7, 7, 2)),
                layers.Conv2D(3, 3, activation="relu6"),
                layers.Conv2D(3, 1),
                layers.ReLU(6),
                layers.Conv2D(3, 1),
                layers.ELU(),
                layers.Conv2D(3, 1, activation="silu"),
                layers.Conv2D(3, 1),
                layers.ReLU(),
            ]
        )
    )
    served = fold_batch_norm(model)
    polish(served)
    keep_apart(served)
    assert_same(model, served, tolerance=1e-6)
    spec = tf.TensorSpec((None, 7, 7, 2))
    graph = tf.function(served, autograph=False).get_concrete_function(spec).graph
    made_by = {op.type: op.inputs[0].op.type for op in graph.get_operations() if op.inputs}
    assert (made_by["Relu6"], made_by["Elu"]) == ("EnsureShape", "EnsureShape")
    assert made_by["Relu"] == "BiasAdd"
    assert served.layers[-3].activation is keras.activations.silu


@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_silu_of_a_recurrent_layer_is_that_of_its_cell(layer):
    part = layers.Bidirectional(layer(3, activation="silu"))
    model = randomise(keras.Sequential([keras.Input((5, 4)), part]))
    polish(polished := fold_batch_norm(model))
    keep_apart(polished)
    assert_same(model, polished)
