import os
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest

from kerastools.constraints import MaxNorm
from kerastools.layers import Dropout
from kerastools.search import DeepDense, PopulationTuner

pytestmark = pytest.mark.tensorflow


def build(**values):
    hypermodel = DeepDense(num_features=8, num_classes=3, depth=3, units=16, seed=4)
    hp = keras_tuner.HyperParameters()
    hypermodel.build(hp)
    hp.values.update(values)
    hp.ensure_active_values()
    return hypermodel.build(hp)


def test_hyperparameters_reach_the_layers_and_the_optimizer():
    model = build(dropout=0.35, **{"1 - momentum": 0.2, "sgd_learning_rate": 0.05})
    rates = [layer.rate for layer in model.layers if isinstance(layer, Dropout)]
    assert rates == pytest.approx([0.35, 0.35])
    assert float(model.optimizer.momentum.numpy()) == pytest.approx(0.8)
    assert float(model.optimizer.learning_rate.numpy()) == pytest.approx(0.05)
    adam = build(optimizer="adam", **{"1 - beta_1": 0.3, "1 - beta_2": 0.01}).optimizer
    assert float(adam.beta_1.numpy()) == pytest.approx(0.7)
    assert float(adam.beta_2.numpy()) == pytest.approx(0.99)


def test_every_hidden_kernel_is_bounded_and_drawn_on_its_own():
    model = build()
    hidden = [layer for layer in model.layers if layer.name.startswith("hidden")]
    assert all(isinstance(layer.kernel_constraint, MaxNorm) for layer in hidden)
    second, third = (layer.get_weights()[0] for layer in hidden[1:])
    assert (second != third).all()


def test_a_seed_makes_the_same_model_again():
    for a, b in zip(build().get_weights(), build().get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_search_improves_on_chance_and_reloads_its_best_model(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 8)).astype("float32")
    y = (x[:, :3] + 0.1 * rng.normal(size=(160, 3))).argmax(axis=1)
    tuner = PopulationTuner(
        DeepDense(num_features=8, num_classes=3, depth=2, units=16),
        "val_accuracy",
        max_trials=3,
        seed=3,
        directory=str(tmp_path),
    )
    tuner.search(x[:96], y[:96], validation_data=(x[96:], y[96:]), epochs=20, verbose=0)
    best = tuner.oracle.get_best_trials(1)[0]
    assert best.score > 0.6
    model = tuner.get_best_models(1)[0]
    assert model.evaluate(x[96:], y[96:], verbose=0)[1] == pytest.approx(best.score)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="depth > 0"):
        DeepDense(num_features=8, num_classes=3, depth=0)


def test_a_missing_dependency_is_named(tmp_path):
    (tmp_path / "tensorboard.py").write_text("raise ImportError('no tensorboard')\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import kerastools.search"
    env = os.environ | {"KERAS_BACKEND": "jax"}  # TensorFlow takes long to import.
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert run.returncode != 0
    assert "pip install 'kerastools[search]'" in run.stderr


def test_keras_default_dropout_would_not_switch_on_from_zero():
    """Why the space may start at rate 0: stock Dropout(0) has no generator to switch on."""
    stock = keras.layers.Dropout(0.0)
    stock.rate = 0.5
    with pytest.raises(AttributeError):
        stock(np.ones((2, 2)), training=True)
