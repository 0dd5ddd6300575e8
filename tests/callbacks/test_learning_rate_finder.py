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


L = keras.layers
GAUSSIAN = "gaussian likelihood"


def likelihood(y, z):
    """Minus the logarithm of a normal density of known variance 0.01; below 0 where it fits."""
    return ops.mean((y - z) ** 2 / 0.02, axis=-1) + np.log(0.1)


# Layers, the shape of a row, and the loss; labels are a function of the first features.
NETS = {
    "linear": ([], (8,), "mse"),
    "dense": ([L.Dense(32, "relu")], (8,), "mse"),
    "deep": ([L.Dense(16, "tanh") for _ in range(5)], (8,), "mse"),
    "classes": ([L.Dense(32, "relu")], (8,), "sparse_categorical_crossentropy"),
    "norm": (
        [L.Dense(32), L.BatchNormalization(), L.ReLU()],
        (8,),
        "sparse_categorical_crossentropy",
    ),
    "dropout": ([L.Dense(64, "relu"), L.Dropout(0.3)], (8,), "sparse_categorical_crossentropy"),
    "convolution": (
        [L.Conv2D(8, 3, activation="relu"), L.GlobalAveragePooling2D()],
        (8, 8, 1),
        "sparse_categorical_crossentropy",
    ),
    "recurrent": ([L.LSTM(12)], (6, 3), "mse"),
    "cosine": ([L.Dense(16, "tanh")], (8,), "cosine_similarity"),
    GAUSSIAN: ([L.Dense(16, "tanh")], (8,), likelihood),
}
OPTIMIZERS = {
    "SGD": lambda: SGD(0.01),
    "momentum": lambda: SGD(0.01, momentum=0.9),
    "Adam": Adam,
    "Keras's RMSprop": keras.optimizers.RMSprop,
    "Keras's AdamW": keras.optimizers.AdamW,
}
FEW = [("classes", "Adam"), ("norm", "momentum"), (GAUSSIAN, "SGD")]
ALL = [(net, optimizer) for i, net in enumerate(NETS) for optimizer in [*OPTIMIZERS][i % 2 :: 2]]


# At the suggestion the loss falls by at least half of what it falls by at the best of the rates.
@pytest.mark.parametrize(
    ("net", "optimizer"),
    [*FEW, *(pytest.param(*p, marks=pytest.mark.corpora) for p in ALL)],
)
def test_the_suggestion_lies_where_training_converges(net, optimizer, record_property, request):
    if net == "recurrent":
        reason = "trains at the suggestion, but slowly: a tenth of the best rate"
        request.applymarker(pytest.mark.xfail(strict=False, reason=reason))
    body, shape, loss = NETS[net]
    x = np.random.default_rng(1).normal(size=(256, *shape)).astype("float32")
    flat = x.reshape(256, -1)
    y = np.tanh(flat[:, :3] + flat[:, 3:6] * flat[:, :1])
    if loss == "sparse_categorical_crossentropy":
        x[..., :1] += 2 * flat[:, :3].argmax(1).reshape(-1, *[1] * len(shape)) - 2
        y = flat[:, :3].argmax(1)
    keras.utils.set_random_seed(2)
    body = [layer.from_config(layer.get_config()) for layer in body]
    last = L.Dense(3, "softmax" if y.ndim == 1 else None, name="output")
    model = keras.Sequential([keras.Input(shape), *body, last])
    model.compile(OPTIMIZERS[optimizer](), loss)
    model.optimizer.build(model.trainable_variables)
    state = model.variables + model.optimizer.variables
    before = [ops.convert_to_numpy(v).copy() for v in state]
    start = model.evaluate(x, y, batch_size=256, verbose=0)
    finder = LearningRateFinder(1e-6, 10.0)
    model.fit(x, y, batch_size=32, epochs=13, verbose=0, callbacks=[finder])
    grid = [finder.suggestion / 10, finder.suggestion]
    if request.config.option.corpora:
        grid[:1] = np.geomspace(1e-5, 10.0, 9)
    ends = []
    for rate in grid:
        for variable, value in zip(state, before, strict=True):
            variable.assign(value)
        model.optimizer.learning_rate = rate
        model.fit(x, y, batch_size=32, epochs=8, verbose=0)
        ends.append(model.evaluate(x, y, batch_size=256, verbose=0))
    fallen = (start - np.nan_to_num(ends, nan=np.inf)) / (start - np.nanmin(ends))
    good = [rate for rate, part in zip(grid, fallen, strict=True) if part > 0.5]
    said = f"{finder.suggestion:.2g} in {min(good):.2g} to {max(good):.2g}: {fallen[-1]:.2f}"
    record_property("suggestion", said)
    print(net, optimizer, said)
    assert fallen[-1] > 0.5, said
