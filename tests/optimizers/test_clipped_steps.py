"""What clipping and skipping do to a step, and what can be read of them afterwards."""

import keras
import numpy as np
import pytest
from keras import ops

from kerastools.optimizers import SGD, Adagrad, Adam, Adamax, Nadam, RMSprop
from tests.optimizers.trajectory import gradients, how_to_run, run

BAD = float("nan"), float("inf"), -float("inf")


def poisoned(number, steps=6, bad_step=3):
    """Gradients of which one step has one bad element."""
    given = gradients(steps)
    given[bad_step][0][1, 2] = number
    return given


@pytest.mark.parametrize("how", how_to_run())
@pytest.mark.parametrize("number", BAD)
def test_a_step_that_is_skipped_leaves_weights_and_slots_to_the_bit(number, how):
    options = {"skip_nonfinite": True, "clipvalue": 0.1, "weight_decay": 0.1}
    skipping, without = Adam(0.01, **options), Adam(0.01, **options)
    got = run(skipping, poisoned(number), how)
    want = run(without, [g for i, g in enumerate(gradients(6)) if i != 3], how)
    for a, b in zip(got[0], want[0], strict=True):
        np.testing.assert_array_equal(a, b)
    for name in want[1]:
        for a, b in zip(got[1][name], want[1][name], strict=True):
            np.testing.assert_array_equal(a, b)
    assert int(skipping.skipped_steps) == 1
    assert int(without.skipped_steps) == 0


@pytest.mark.parametrize("cls", [SGD, Adagrad, Adamax, Nadam, RMSprop])
def test_every_optimizer_skips(cls):
    optimizer = cls(0.01, skip_nonfinite=True)
    weights, slots = run(optimizer, poisoned(float("nan")))
    assert int(optimizer.skipped_steps) == 1
    for array in (*weights, *(a for arrays in slots.values() for a in arrays)):
        assert np.isfinite(array).all()


def test_without_skipping_a_bad_gradient_shows():
    weights, _ = run(SGD(0.01, global_clipnorm=1.0), poisoned(float("inf")))
    assert np.isnan(weights[1]).all()


def test_norm_and_counts_can_be_read_after_each_step():
    norms = []
    optimizer = SGD(0.01, global_clipnorm=0.1)
    given = gradients(10)

    def read(step):
        if step:
            norms.append(float(optimizer.gradient_norm))

    run(optimizer, [*given, given[0]], before_step=read)
    want = [np.sqrt(sum(np.sum(g**2) for g in gs)) for gs in given]
    np.testing.assert_allclose(norms, want, rtol=1e-6)
    want.append(want[0])
    assert int(optimizer.clipped_steps) == sum(w > 0.1 for w in want)
    assert 0 < int(optimizer.clipped_steps) < 11
    assert SGD().gradient_norm is None


def test_a_callback_reads_the_norm_while_fit_runs():
    norms = []

    class Read(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            norms.append(float(self.model.optimizer.gradient_norm))

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(Adam(0.1, global_clipnorm=float("inf")), "mse")
    model.fit(np.ones((8, 2)), np.ones((8, 1)), batch_size=4, verbose=0, callbacks=[Read()])
    assert len(norms) == 2
    assert norms[0] != norms[1] > 0


def test_all_clips_act_in_their_order():
    theta = keras.Variable([[1.0], [0.0]])
    optimizer = SGD(1.0, clipvalue=4.0, clipnorm=1.0, global_clipnorm=0.5, adaptive_clipnorm=0.1)
    optimizer.apply([ops.convert_to_tensor([[3.0], [400.0]])], [theta])
    # By value (3, 4); to norm 1: (0.6, 0.8); to 0.5: (0.3, 0.4); to a tenth of ‖θ‖ = 1.
    np.testing.assert_allclose(ops.convert_to_numpy(theta), [[0.94], [-0.08]], rtol=1e-5)
    config = optimizer.get_config()
    assert SGD.from_config(config).get_config() == config
