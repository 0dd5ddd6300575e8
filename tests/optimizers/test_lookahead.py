import keras
import numpy as np
import pytest
from keras import ops

from kerastools.callbacks import EvaluationWeights
from kerastools.optimizers import SGD, Adam, Lookahead, ParamGroup, rebind
from tests.optimizers.trajectory import error, gradients, start


def updates(optimizer, steps):
    """Weights after each step of fixed gradients."""
    weights = [keras.Variable(np.float32(w), name=f"w{i}") for i, w in enumerate(start())]
    optimizer.build(weights)
    path = []
    for gs in gradients(steps):
        optimizer.apply([ops.convert_to_tensor(np.float32(g)) for g in gs], weights)
        path.append([ops.convert_to_numpy(w).copy() for w in weights])
    return path


def model_with(optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    )
    model.compile(optimizer, "mse")
    return model


def data():
    rng = np.random.default_rng(4)
    return np.float32(rng.normal(size=(40, 3))), np.float32(rng.normal(size=(40, 1)))


def test_every_k_steps_the_slow_weights_follow_and_the_fast_ones_go_back():
    path = updates(Lookahead(SGD(0.1), sync_period=5, slow_step_size=0.3), 20)
    slow = fast = start()
    for t, gs in enumerate(gradients(20), start=1):
        fast = [w - 0.1 * g for w, g in zip(fast, gs, strict=True)]
        if t % 5 == 0:
            slow = fast = [s + 0.3 * (w - s) for s, w in zip(slow, fast, strict=True)]
        assert error(path[t - 1], fast) < 1e-6


def test_agrees_with_optax():
    optax = pytest.importorskip("optax")
    path = updates(Lookahead(Adam(0.01, epsilon_mode="outside"), 5, 0.5), 40)
    twin = optax.lookahead(optax.adam(0.01, eps=1e-7), 5, 0.5)
    params = optax.LookaheadParams.init_synced([np.float32(w) for w in start()])
    state = twin.init(params)
    for gs in gradients(40):
        change, state = twin.update([np.float32(g) for g in gs], state, params)
        params = optax.apply_updates(params, change)
    assert error(path[-1], [np.asarray(w) for w in params.fast]) < 2e-5


@pytest.mark.parametrize("inner", [lambda: SGD(0.1, 0.9), lambda: keras.optimizers.Lion(0.01)])
def test_the_slow_weights_are_evaluated_and_training_goes_on(inner):
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    once, twice = model_with(Lookahead(inner(), 3)), model_with(Lookahead(inner(), 3))
    once.fit(*data(), epochs=4, callbacks=[EvaluationWeights()], **options)
    twice.fit(*data(), epochs=2, callbacks=[EvaluationWeights()], **options)
    slow = twice.get_weights()
    twice.evaluate(*data(), verbose=0)
    twice.fit(*data(), epochs=4, initial_epoch=2, callbacks=[EvaluationWeights()], **options)
    for a, b in zip(once.get_weights(), twice.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # 10 steps: the last meeting was after 9, and the fast weights are one step ahead.
    plain = model_with(Lookahead(inner(), 3))
    plain.fit(*data(), epochs=2, **options)
    assert any(np.abs(a - b).max() > 0 for a, b in zip(slow, plain.get_weights(), strict=True))


def test_with_accumulated_gradients_real_updates_count():
    weights = []
    for batch, steps in ((20, None), (5, 4)):
        inner = SGD(0.1, gradient_accumulation_steps=steps)
        model = model_with(Lookahead(inner, sync_period=2))
        model.fit(*data(), batch_size=batch, epochs=4, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_layers_that_join_later_begin_their_slow_weights_where_they_are():
    model = model_with(Lookahead(SGD(0.1), 100))
    model.layers[0].trainable = False
    model.compile(model.optimizer, "mse")
    model.fit(*data(), epochs=1, verbose=0)
    model.layers[0].trainable = True
    rebind(model.optimizer, model)
    kernel = ops.convert_to_numpy(model.layers[0].kernel)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.optimizer._slow_slots[0]), kernel)
    model.fit(*data(), epochs=1, verbose=0)
    assert np.abs(ops.convert_to_numpy(model.layers[0].kernel) - kernel).max() > 0


def test_goes_inside_a_loss_scale_optimizer():
    model = model_with(keras.optimizers.LossScaleOptimizer(Lookahead(SGD(0.1), 3)))
    plain = model_with(Lookahead(SGD(0.1), 3))
    for one in (model, plain):
        one.fit(*data(), epochs=2, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lookahead(SGD(), sync_period=0), "sync_period=0"),
        (lambda: Lookahead(SGD(), slow_step_size=1.5), "slow_step_size=1.5"),
        (lambda: Lookahead(SGD(0.1, 0.9, nesterov="exact")), "SGD that evaluates at other"),
        (lambda: Lookahead(Adam(use_ema=True)), "Adam that evaluates at other"),
        (
            lambda: Lookahead(keras.optimizers.LossScaleOptimizer(SGD())),
            r"LossScaleOptimizer\(Lookahead",
        ),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_optimizer_is_refused():
    with pytest.raises(TypeError, match="Received 'sgd' of type str"):
        Lookahead("sgd")


@pytest.mark.tensorflow
def test_a_checkpoint_restored_before_the_optimizer_is_built_keeps_the_slow_weights(tmp_path):
    import tensorflow as tf

    def make():
        group = ParamGroup("role:bias", lr_multiplier=0.5)
        model = model_with(Lookahead(Adam(0.1, param_groups=[group]), 3))
        return model, tf.train.Checkpoint(model=model, optimizer=model.optimizer)

    model, checkpoint = make()
    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model.fit(*data(), epochs=2, **options)
    path = checkpoint.save(tmp_path / "checkpoint")
    restored, checkpoint = make()
    checkpoint.restore(path)
    for one in (model, restored):
        one.fit(*data(), epochs=2, **options)
    for a, b in zip(model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_tree_of_all_state_restores_the_slow_weights():
    """Which Orbax and Keras's callback for it save, by the paths of the variables."""

    def make():
        keras.utils.clear_session(free_memory=False)
        model = model_with(Lookahead(Adam(0.1), 3))
        model.optimizer.build(model.trainable_variables)
        return model

    options = {"batch_size": 8, "shuffle": False, "verbose": 0}
    model = make()
    model.fit(*data(), epochs=2, **options)
    saved = model.get_state_tree(value_format="numpy_array")
    restored = make()
    restored.set_state_tree(saved)
    for one in (model, restored):
        one.fit(*data(), epochs=2, **options)
    for a, b in zip(model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
