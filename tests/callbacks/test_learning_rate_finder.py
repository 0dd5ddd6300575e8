import keras
import numpy as np
import pytest
from keras import ops

from kerastools import KerastoolsNotice
from kerastools.callbacks import LearningRateFinder
from kerastools.optimizers import SGD, Adam


def data():
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def linear(optimizer):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dropout(0.1, seed=5), keras.layers.Dense(1)]
    )
    model.compile(optimizer, "mse", metrics=["mae"])
    return model


def fit(model, *callbacks, **options):
    options = {"batch_size": 8, "epochs": 8, "verbose": 0, "shuffle": False} | options
    return model.fit(*data(), callbacks=list(callbacks), **options)


def state(model):
    return [
        ops.convert_to_numpy(v)
        for v in model.variables + model.optimizer.variables
        if v.name != "learning_rate"
    ]


@pytest.mark.filterwarnings("ignore:.*nothing is trained")
@pytest.mark.parametrize("optimizer", [lambda: SGD(0.5, momentum=0.9), keras.optimizers.Adam])
def test_the_sweep_leaves_no_trace_but_the_learning_rate(optimizer):
    swept, untouched = linear(optimizer()), linear(optimizer())
    finder = LearningRateFinder(1e-3, 0.5, steps=24)
    fit(swept, finder, epochs=3)
    if not untouched.optimizer.built:
        untouched.optimizer.build(untouched.trainable_variables)
    for a, b in zip(state(swept), state(untouched), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(finder.rates) == 24


@pytest.mark.filterwarnings("ignore:LearningRateFinder s")
def test_rates_grow_by_a_factor_and_the_loss_is_that_of_each_batch():
    model, finder = linear(SGD(0.5)), LearningRateFinder(1e-9, 1e-8, steps=16)
    x, y = data()
    kernel, bias = model.get_weights()[:2]
    model.layers[0].rate = 0.0
    fit(model, finder, epochs=2)
    np.testing.assert_allclose(finder.rates, np.geomspace(1e-9, 1e-8, 16), rtol=1e-6)
    # So small a rate leaves the weights where they are.
    losses = [np.mean((x[i : i + 8] @ kernel + bias - y[i : i + 8]) ** 2) for i in range(0, 64, 8)]
    np.testing.assert_allclose(finder.losses, losses * 2, rtol=1e-4)


def test_a_loss_that_never_falls_leaves_the_learning_rate_alone():
    x = np.ones((64, 4), "float32")
    model = linear(SGD(0.5))
    model.set_weights([np.zeros((4, 1)), np.zeros(1), *model.get_weights()[2:]])
    finder = LearningRateFinder(1e-3, 10.0, steps=20)
    with pytest.warns(UserWarning, match="no loss that fell"):
        model.fit(x, 0 * x[:, :1], batch_size=8, epochs=3, verbose=0, callbacks=[finder])
    assert finder.suggestion is None
    assert float(model.optimizer.learning_rate) == 0.5


def test_training_goes_on_with_the_suggestion_and_learns():
    model, finder = linear(SGD(1e-9)), LearningRateFinder(1e-4, 10.0, steps=50)
    before = model.evaluate(*data(), verbose=0)[0]
    fit(model, finder, epochs=20)
    assert float(model.optimizer.learning_rate) == pytest.approx(finder.suggestion)
    # This quadratic explodes near η = 2/λ_max ≈ 1.
    assert 0.005 < finder.suggestion < 0.2
    assert model.evaluate(*data(), verbose=0)[0] < before / 10


def test_a_constant_added_to_the_loss_changes_nothing():
    found = []
    losses = ["mse", lambda y, z: ops.mean((y - z) ** 2, axis=-1) - 5.0]
    for loss in losses:
        model, finder = linear(SGD(0.1)), LearningRateFinder(1e-3, 1e3, steps=50)
        model.compile(model.optimizer, loss)
        fit(model, finder, epochs=7)
        found.append([len(finder.rates), finder.suggestion])
    assert found[0] == found[1]
    assert found[0][0] < 50


def test_a_fit_that_is_too_short_gets_a_shorter_sweep_or_none_and_says_so():
    model, finder = linear(SGD(0.1)), LearningRateFinder(1e-4, 1.0)
    with pytest.warns(KerastoolsNotice, match="over 100 batches, and this fit has 40.*over 20,"):
        history = fit(model, finder, epochs=5).history
    assert len(finder.rates) == 20
    for values in history.values():  # 20 batches are two epochs and a half.
        assert np.isnan(values).tolist() == [True, True, False, False, False]
    assert int(model.optimizer.iterations) == 20
    model, plain = linear(SGD(0.125)), linear(SGD(0.125))
    with pytest.warns(KerastoolsNotice, match="this fit has 16: there is no sweep"):
        fit(model, finder, epochs=5, initial_epoch=3)
    fit(plain, epochs=5, initial_epoch=3)
    for a, b in zip(state(model), state(plain), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (finder.rates, finder.suggestion) == ([], None)
    x, y = data()

    def rows():
        for i in range(0, 64, 8):
            yield x[i : i + 8], y[i : i + 8]

    model = linear(SGD(0.125))
    with pytest.warns(UserWarning, match="8: nothing was trained|ran out of data") as told:
        history = model.fit(rows(), verbose=0, shuffle=False, callbacks=[finder]).history
    assert any("fit ended after 8" in str(warning.message) for warning in told)
    assert np.isnan(history["loss"]).all()
    assert float(model.optimizer.learning_rate) == 0.125
    assert int(model.optimizer.iterations) == 0


def test_the_sweep_ends_when_the_loss_explodes():
    finder = LearningRateFinder(1e-3, 1e6, steps=50)
    fit(linear(SGD(0.1)), finder, epochs=10)
    assert len(finder.rates) < 50
    smooth, start = finder.smoothed_losses(), np.mean(finder.losses[:5])
    assert not smooth[-1] < 3 * start - 2 * np.nanmin(smooth)
    assert finder.suggestion < finder.rates[-1] / 10


def test_the_picture_shows_the_curve_and_the_suggestion():
    pytest.importorskip("matplotlib")
    finder = LearningRateFinder(1e-4, 10.0, steps=50)
    fit(linear(Adam()), finder, epochs=10)
    with pytest.raises(ValueError, match="sweep"):
        LearningRateFinder().plot()
    (ax,) = finder.plot().axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[-1] == f"suggestion {finder.suggestion:.2g}"
    assert ax.get_xscale() == "log"
    low, high = ax.get_ylim()
    assert low < np.nanmin(finder.smoothed_losses()) < high


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"min_learning_rate=0\.1"):
        LearningRateFinder(0.1, 0.01)
    with pytest.raises(ValueError, match="steps=5"):
        LearningRateFinder(steps=5)
    scheduled = linear(SGD(keras.optimizers.schedules.CosineDecay(0.1, 10)))
    with pytest.raises(ValueError, match="LearningRateFinder cannot set 'learning_rate'"):
        fit(scheduled, LearningRateFinder())
