"""Each dropout layer is Keras's of the same name until its rate is set."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

from kerastools import layers

X = np.random.default_rng(0).normal(size=(6, 5, 7)).astype("float32")
CASES = {
    "Dropout": ("Dropout", {}, X),
    "Dropout noise_shape": ("Dropout", {"noise_shape": (None, 1, 7)}, X),
    "AlphaDropout": ("AlphaDropout", {}, X),
    "AlphaDropout noise_shape": ("AlphaDropout", {"noise_shape": (None, 1, 7)}, X),
    "SpatialDropout1D": ("SpatialDropout1D", {}, X),
    "SpatialDropout2D": ("SpatialDropout2D", {}, X[..., None]),
    "SpatialDropout2D first": ("SpatialDropout2D", {"data_format": "channels_first"}, X[:, None]),
    "SpatialDropout3D": ("SpatialDropout3D", {}, X[..., None, None]),
}


def pair(cls, *arguments, **keywords):
    """Returns Keras's layer and ours."""
    return [getattr(m, cls)(*arguments, **keywords) for m in (keras.layers, layers)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masks_are_bitwise_those_of_keras(case, dtype):
    name, arguments, x = CASES[case]
    for rate in (0.0, 0.1, 1 / 3, 0.5, 0.9):
        theirs, ours = pair(name, rate, seed=3, dtype=dtype, **arguments)
        for _ in range(3):
            outputs = [layer(ops.cast(x, dtype), training=True) for layer in (theirs, ours)]
            first, second = (ops.convert_to_numpy(ops.cast(y, "float32")) for y in outputs)
            np.testing.assert_array_equal(first, second)
            assert outputs[0].dtype == outputs[1].dtype


@pytest.mark.parametrize("name", [n for n in layers.__all__ if hasattr(keras.layers, n)])
def test_arguments_configuration_and_errors_are_those_of_keras(name):
    theirs, ours = pair(name, 1 / 3, seed=5, name="d")
    signatures = [inspect.signature(type(layer)).parameters.values() for layer in (theirs, ours)]
    kept = [[(p.name, p.kind, p.default) for p in parameters] for parameters in signatures]
    assert kept[0] == kept[1]
    assert theirs.get_config() == ours.get_config()
    assert isinstance(ours, type(theirs))
    assert theirs.input_spec is None or theirs.input_spec.ndim == ours.input_spec.ndim
    for shape in ("text", (0, 1), (1.5,), 3):
        if name == "Dropout":
            # Keras's AlphaDropout takes anything.
            for cls in (keras.layers.Dropout, layers.Dropout, layers.AlphaDropout):
                with pytest.raises(ValueError, match="noise_shape"):
                    cls(0.3, noise_shape=shape)


def net(module, rate=0.3):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((5, 7)),
            module.SpatialDropout1D(rate, seed=1),
            keras.layers.Dense(6, "selu"),
            module.AlphaDropout(rate, seed=2),
            module.Dropout(rate, seed=3),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model


Y = np.random.default_rng(1).normal(size=(6, 1)).astype("float32")


def test_fit_takes_the_steps_of_keras():
    # Compiled, XLA may divide by a constant otherwise than by a variable.
    weights = []
    for module in (keras.layers, layers):
        model = net(module)
        model.fit(X, Y, batch_size=2, epochs=5, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_weights_go_both_ways(tmp_path):
    theirs, ours = net(keras.layers), net(layers)
    ours.fit(X, Y, verbose=0)
    assert [v.shape for v in ours.weights] == [v.shape for v in theirs.weights]
    for source, target in [(ours, theirs), (net(keras.layers), ours)]:
        source.save_weights(tmp_path / "net.weights.h5")
        target.load_weights(tmp_path / "net.weights.h5")
        for first, second in zip(source.get_weights(), target.get_weights(), strict=True):
            np.testing.assert_array_equal(first, second)
        target.set_weights(source.get_weights())
    assert [layer.rate for layer in ours.layers[:1]] == [0.3]


class SetRate(keras.callbacks.Callback):
    """Sets a rate before one batch; with `synced` it lets JAX put back the state first."""

    def __init__(self, layer, at, synced=True):
        super().__init__()
        self.layer, self.at, self.synced = layer, at, synced

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.at:
            if self.synced:
                assert self.model is not None
            self.layer.rate = 1.0


def zeros_in_each_step(synced):
    layer = layers.Dropout(0.0, seed=1)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile("sgd", lambda y, p: ops.mean(ops.cast(p == 0, "float32"), axis=-1))
    losses = []

    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(float(logs["loss"]))

    x = np.ones((4, 4), "float32")
    model.fit(x, x, batch_size=1, verbose=0, callbacks=[SetRate(layer, 2, synced), Losses()])
    return losses, layer.rate


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_a_rate_set_between_batches_acts_on_the_next():
    losses, rate = zeros_in_each_step(synced=True)
    # The mean over the epoch so far.
    assert losses == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert rate == 1.0


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX only")
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_a_rate_that_jax_would_lose_is_refused():
    with pytest.raises(ValueError, match="jax_state_sync"):
        zeros_in_each_step(synced=False)


def test_state_copied_from_another_layer_shows_in_the_rate():
    first, second = layers.Dropout(0.1), layers.Dropout(1 / 3)
    for source, target in zip(second.variables, first.variables, strict=True):
        target.assign(source)
    assert first.rate == pytest.approx(1 / 3, abs=1e-7)
    assert layers.Dropout(1 / 3).rate == 1 / 3
