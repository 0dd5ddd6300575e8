import keras
import numpy as np
import pytest
from keras import ops

from kerastools.optimizers import SAM, SGD, Adam

ROWS, BATCH = 24, 8


def data():
    rng = np.random.default_rng(4)
    return np.float32(rng.normal(size=(ROWS, 2))), np.float32(rng.normal(size=(ROWS, 1)))


def linear(optimizer):
    """y = xw, whose gradient NumPy has, too."""
    model = keras.Sequential([keras.Input((2,))])
    model.add(keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"))
    model.compile(optimizer, "mse")
    return model


@pytest.mark.parametrize("adaptive", [False, True])
def test_descends_with_the_gradient_from_the_worst_point_nearby(adaptive):
    x, y = data()
    model = linear(SAM(SGD(0.1, 0.9), rho=0.3, adaptive=adaptive))
    batches = SAM.batches(x, y, BATCH, shuffle=False)
    model.fit(batches, shuffle=False, epochs=3, verbose=0)

    w, v = np.ones((2, 1)), 0.0
    for _ in range(3):
        for first in range(0, ROWS, BATCH):
            xb, yb = (np.float64(a[first : first + BATCH]) for a in (x, y))
            g = 2 * xb.T @ (xb @ w - yb) / BATCH
            scale = np.abs(w) if adaptive else np.ones_like(w)
            worst = w + 0.3 * scale**2 * g / np.linalg.norm(scale * g)
            v = 0.9 * v + 0.1 * 2 * xb.T @ (xb @ worst - yb) / BATCH
            w = w - v
    np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-5)
    assert int(model.optimizer.iterations) == 3 * ROWS // BATCH


def test_the_inner_optimizer_sees_only_real_updates():
    theta = keras.Variable(np.float32([1.0, -2.0]))
    optimizer = SAM(Adam(0.1), rho=0.5)
    g = ops.convert_to_tensor([3.0, 4.0])
    optimizer.apply([g], [theta])
    np.testing.assert_allclose(ops.convert_to_numpy(theta), [1.3, -1.6], rtol=1e-6)
    assert int(optimizer.iterations) == 0
    assert not ops.convert_to_numpy(optimizer.inner_optimizer._momentum_slots[0]).any()
    optimizer.apply([g], [theta])
    np.testing.assert_allclose(ops.convert_to_numpy(theta), [0.9, -2.1], rtol=1e-5)
    assert int(optimizer.iterations) == 1


def test_each_batch_comes_twice_and_rows_are_shuffled_by_the_seed():
    x, y = np.arange(10.0), np.arange(10.0) + 100
    batches = SAM.batches(x, y, 4, seed=3)
    assert len(batches) == 6
    epoch = [batches[i] for i in range(6)]
    for first, second in zip(epoch[::2], epoch[1::2], strict=True):
        np.testing.assert_array_equal(first, second)
    assert sorted(np.concatenate([rows for rows, _ in epoch[::2]])) == list(x)
    assert all((b == a + 100).all() for a, b in epoch)
    again = SAM.batches(x, y, 4, seed=3)
    np.testing.assert_array_equal(again[0], epoch[0])
    batches.on_epoch_end()
    assert not np.array_equal(batches[0], epoch[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SAM(SGD(), rho=0), "rho=0"),
        (lambda: SAM(SGD(gradient_accumulation_steps=4)), "gradient_accumulation_steps"),
        (lambda: SAM.batches(np.ones(3), np.ones(4)), "3 and 4 rows"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
