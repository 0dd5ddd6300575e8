"""A last batch of a few rows does no harm to batch normalisation."""

import keras
import numpy as np
import pytest

from kerastools.acceleration import accelerate


def net(batch_norm=True, momentum=0.9):
    keras.utils.set_random_seed(2)
    norm = [keras.layers.BatchNormalization(momentum=momentum)] if batch_norm else []
    model = keras.Sequential([keras.Input((4,)), *norm, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def data(rows):
    x = np.random.default_rng(1).normal(2.0, 3.0, size=(rows, 4)).astype("float32")
    return x, x[:, :1]


def moving_statistics(x, sizes, momentum, full):
    """Moves mean and variance over consecutive batches by 1 − mʷ, in float64."""
    mean, variance, start = np.zeros(4), np.ones(4), 0
    for size in sizes:
        batch = x[start : start + size].astype("float64")
        keep = momentum ** (size / full)
        mean = keep * mean + (1 - keep) * batch.mean(0)
        variance = keep * variance + (1 - keep) * batch.var(0)
        start += size
    return mean, variance


@pytest.mark.parametrize(
    ("last_batch", "sizes", "steps_per_call"),
    [
        ("keep", [16, 16, 16, 3], 2),
        ("keep", [16, 16, 16, 3], 8),
        ("drop", [16, 16, 16], 3),
        ("merge", [16, 16, 19], 2),
        ("merge", [16, 16, 19], 8),
        ("auto", [16, 16, 19], 3),
    ],
)
def test_moving_statistics_are_those_of_the_rows(last_batch, sizes, steps_per_call):
    x, y = data(51)
    model = accelerate(net(), steps_per_call, last_batch=last_batch)
    model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) == len(sizes)
    mean, variance = moving_statistics(x, sizes, 0.9, 16)
    np.testing.assert_allclose(model.layers[0].moving_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(model.layers[0].moving_variance, variance, rtol=1e-5)


def test_batches_of_a_dataset_that_come_one_by_one_are_merged_too():
    class Blocks(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            return tuple(a[16 * i : 16 * i + 16] for a in data(51))

    model = accelerate(net(), 3)
    model.fit(Blocks(), shuffle=False, verbose=0, epochs=2)
    assert int(model.optimizer.iterations) == 6
    once = accelerate(net(), 3)
    once.fit(Blocks(), shuffle=False, verbose=0)
    mean, _ = moving_statistics(data(51)[0], [16, 16, 19], 0.9, 16)
    np.testing.assert_allclose(once.layers[0].moving_mean, mean, rtol=1e-5)


@pytest.mark.parametrize("rows", [16 + 8, 16 + 15])
def test_auto_keeps_a_last_batch_of_half_the_rows_or_more(rows):
    model = accelerate(net(), 4)
    model.fit(*data(rows), batch_size=16, verbose=0)
    assert int(model.optimizer.iterations) == 2


def test_auto_keeps_the_last_batch_where_nothing_normalises():
    for model in (net(batch_norm=False), net()):
        model.layers[0].trainable = not isinstance(model.layers[0], keras.layers.BatchNormalization)
        accelerate(model, 4).fit(*data(51), batch_size=16, verbose=0)
        assert int(model.optimizer.iterations) == 4


def test_weights_stay_those_of_fit_when_the_last_batch_is_kept():
    models = net(), accelerate(net(), 3, last_batch="keep")
    for model in models:
        model.fit(*data(51), batch_size=16, epochs=3, shuffle=False, verbose=0)
    trained = [[np.array(w) for w in model.trainable_variables] for model in models]
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)


@pytest.mark.slow
@pytest.mark.tensorflow  # The row weights behind it are tested on both.
def test_three_rows_no_longer_ruin_the_training_of_a_deep_net():
    def build():
        keras.utils.set_random_seed(2)
        hidden = [
            layer
            for _ in range(4)
            for layer in (
                keras.layers.Dense(30, use_bias=False),
                keras.layers.BatchNormalization(),
                keras.layers.Activation("elu"),
            )
        ]
        model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(1)])
        model.compile(keras.optimizers.Nadam(0.003), "mse")
        return model

    x, _ = data(32 * 10 + 3)
    y = np.sin(x[:, :1]) * x[:, 1:2]
    losses = []
    for model in (build(), accelerate(build(), 10)):
        keras.utils.set_random_seed(0)
        history = model.fit(x, y, epochs=10, verbose=0)
        losses.append((np.mean(history.history["loss"][-3:]), model.evaluate(x, y, verbose=0)))
    assert losses[1][0] < losses[0][0], losses
