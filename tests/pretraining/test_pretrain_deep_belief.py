import keras
import numpy as np
import pytest
from keras import ops

from kerastools._core.batches import Batches
from kerastools.pretraining import RestrictedBoltzmann, pretrain_deep_belief
from kerastools.transfer import reuse_layers

L = keras.layers


def encoder(*units, activation="sigmoid", features=6):
    layers = [L.Dense(n, activation, name=f"hidden_{i}") for i, n in enumerate(units, 1)]
    return keras.Sequential([keras.Input((features,)), *layers])


def rows(n=64, features=6):
    bits = np.random.default_rng(1).integers(0, 2, size=(n, 1))
    flip = np.random.default_rng(2).random((n, features)) < 0.1
    return np.where(flip, 1 - bits, bits).astype("float32")


@pytest.mark.tensorflow  # The machines are tested on both.
def test_each_layer_computes_the_hidden_bits_of_its_machine():
    x = rows()
    optimizer = keras.optimizers.Adam(0.01)
    stack = pretrain_deep_belief(encoder(4, 3), x, optimizer=optimizer, epochs=3, seed=0, verbose=0)
    codes = x
    for i, units in enumerate((4, 3)):
        machine = RestrictedBoltzmann(units, seed=i)
        machine.compile(keras.optimizers.Adam(0.01))
        machine.build(codes.shape)
        batches = Batches([codes], 32, i, lambda arrays, rng: arrays)
        for batches.epoch in range(3):
            for batch in range(len(batches)):
                machine.train_on_batch(*batches[batch])
        codes = machine.predict(codes, verbose=0)
        layer = stack.get_layer(f"hidden_{i + 1}")
        np.testing.assert_allclose(layer.get_weights()[0], machine.get_weights()[0], atol=1e-6)
    np.testing.assert_allclose(stack.predict(x, verbose=0), codes, atol=1e-6)


def test_history_tells_of_each_machine_and_the_stack_is_reused():
    stack = pretrain_deep_belief(encoder(5, 3), rows(), epochs=6, num_chains=20, verbose=0)
    history = stack.history.history
    assert len(history["hidden_2_free_energy"]) == 6
    first = history["hidden_1_pseudo_likelihood"]
    assert first[-1] > first[0]
    trunk = reuse_layers(stack, upto="hidden_1")
    np.testing.assert_array_equal(trunk.get_weights()[0], stack.get_weights()[0])


def test_an_interrupted_run_goes_on_to_the_bit(tmp_path):
    class CtrlC(keras.callbacks.Callback):
        epochs = 3

        def on_epoch_begin(self, epoch, logs=None):
            CtrlC.epochs -= 1
            if CtrlC.epochs < 0:
                raise KeyboardInterrupt

    arguments = {"x": rows(), "epochs": 2, "num_chains": 8, "seed": 0, "verbose": 0}
    straight = pretrain_deep_belief(encoder(4, 3), **arguments)
    stopped = encoder(4, 3)
    before = stopped.get_weights()
    with pytest.raises(KeyboardInterrupt):  # in the second machine
        pretrain_deep_belief(stopped, directory=tmp_path, callbacks=[CtrlC()], **arguments)
    for a, b in zip(before, stopped.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    resumed = pretrain_deep_belief(encoder(4, 3), directory=tmp_path, **arguments)
    assert resumed.history.history == straight.history.history
    for a, b in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.tensorflow  # The machines are tested on both.
def test_gaussian_units_stand_lowest():
    x = np.random.default_rng(1).normal(size=(32, 6))
    stack = pretrain_deep_belief(encoder(4, 3), x, visible="gaussian", epochs=1, verbose=0)
    names = stack.history.history
    assert "hidden_1_pseudo_likelihood" not in names
    assert "hidden_2_pseudo_likelihood" in names
    assert np.isfinite(ops.convert_to_numpy(stack(x))).all()


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (lambda: encoder(4, activation="relu"), rows(), "sigmoid activations"),
        (lambda: keras.Sequential([keras.Input((6, 1)), L.Conv1D(2, 2)]), rows(), "Dense layers"),
        (lambda: encoder(4), rows() * 2, r"in \[0, 1\]"),
        (lambda: encoder(4), np.zeros(64), "look like labels"),
        (lambda: encoder(4), rows(8), "batch_size"),
    ],
)
def test_bad_input_is_refused(make, x, message):
    with pytest.raises(ValueError, match=message):
        pretrain_deep_belief(make(), x)
