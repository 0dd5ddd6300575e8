"""The sound nets of the fault bench, and the data that they learn.

The rules were set on `NETS`. `HELD_OUT` are other architectures on other data, for the figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from sklearn.datasets import (
    load_breast_cancer,
    load_digits,
    make_classification,
    make_friedman1,
    make_friedman2,
)


@dataclass
class Data:
    """Rows to train and to test on; standardised where it is sound."""

    x: Any
    y: np.ndarray
    x_test: Any
    y_test: np.ndarray
    loss: Any
    units: int
    output: str | None


@dataclass
class Options:
    """What a fault may change before a net is built."""

    activation: str | None = None
    kernel: Any = None
    bias: Any = "zeros"
    output: str | None = "as the data needs"
    dropout: float = 0.0
    dropout_on_output: float = 0.0
    constraint_axis: int | None = None


def _split(x: np.ndarray, y: np.ndarray, test: int) -> tuple[np.ndarray, ...]:
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype("float32"), y[order]
    return x[:-test], y[:-test], x[-test:], y[-test:]


def digits() -> Data:
    x, y = load_digits(return_X_y=True)
    x = (x - x.mean()) / x.std()
    return Data(*_split(x, y, 517), "sparse_categorical_crossentropy", 10, "softmax")


def digit_images() -> Data:
    data = digits()
    data.x, data.x_test = (a.reshape(-1, 8, 8, 1) for a in (data.x, data.x_test))
    return data


def digit_rows() -> Data:
    data = digits()
    data.x, data.x_test = (a.reshape(-1, 8, 8) for a in (data.x, data.x_test))
    return data


def cancer() -> Data:
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    split = _split(x, y.astype("float32"), 185)
    return Data(*split, "binary_crossentropy", 1, "sigmoid")


def friedman() -> Data:
    x, y = make_friedman1(1792, noise=0.5, random_state=0)
    x, y = (x - 0.5) / x.std(), (y - y.mean()) / y.std()
    return Data(*_split(x, y.astype("float32"), 512), "mse", 1, None)


def blobs() -> Data:
    """Five classes in 20 dimensions, four clusters each."""
    x, y = make_classification(
        2048, 20, n_informative=12, n_classes=5, n_clusters_per_class=2, class_sep=2.0,
        random_state=1,
    )  # fmt: skip
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return Data(*_split(x, y, 768), "sparse_categorical_crossentropy", 5, "softmax")


def two_views() -> Data:
    """The blobs, whose features come by two inputs."""
    data = blobs()
    data.x, data.x_test = ([a[:, :8], a[:, 8:]] for a in (data.x, data.x_test))
    return data


def rings() -> Data:
    """Two classes by the distance from the origin, in 8 dimensions."""
    x = np.random.default_rng(2).normal(size=(1792, 8))
    radius = np.linalg.norm(x, axis=1)
    split = _split(x, (radius > np.median(radius)).astype("float32"), 512)
    return Data(*split, "binary_crossentropy", 1, "sigmoid")


def waves() -> Data:
    """Four shapes of a wave of any phase and period, sampled at 32 times, with noise."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 4, 1792)
    t = np.linspace(0, 1, 32) * rng.uniform(2, 4, (1792, 1)) + rng.uniform(0, 1, (1792, 1))
    shapes = (
        np.sin(2 * np.pi * t),
        np.sign(np.sin(2 * np.pi * t)),
        2 * (t % 1) - 1,
        1 - 2 * (t % 1),
    )
    x = np.choose(y[:, None], shapes) + 0.2 * rng.normal(size=t.shape)
    x = ((x - x.mean()) / x.std())[..., None]
    return Data(*_split(x, y, 512), "sparse_categorical_crossentropy", 4, "softmax")


def shapes() -> Data:
    """Discs, squares and crosses of any place and size on 12 by 12 pixels, with noise."""
    rng = np.random.default_rng(4)
    y, rows = rng.integers(0, 3, 1536), np.arange(12)
    size, (u, v) = rng.uniform(2, 4, (1536, 1, 1)), rng.uniform(4, 7, (2, 1536, 1, 1))
    du, dv = np.broadcast_arrays(abs(rows[:, None] - u), abs(rows - v))
    drawn = (
        np.hypot(du, dv) < size,
        np.maximum(du, dv) < size,
        (np.minimum(du, dv) < 1) & (np.maximum(du, dv) < size),
    )
    x = np.choose(y[:, None, None], [d.astype(float) for d in drawn])
    x = x + 0.2 * rng.normal(size=x.shape)
    x = ((x - x.mean()) / x.std())[..., None]
    return Data(*_split(x, y, 512), "sparse_categorical_crossentropy", 3, "softmax")


def impedance() -> Data:
    """Friedman's second function, four inputs of very different scale, standardised."""
    x, y = make_friedman2(1792, noise=30.0, random_state=5)
    x, y = (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()
    return Data(*_split(x, y.astype("float32"), 512), "mse", 1, None)


def _dense(units: int, activation: str | None, o: Options, name: str) -> layers.Layer:
    constraint = None
    if o.constraint_axis is not None:
        constraint = keras.constraints.MaxNorm(1.0, axis=o.constraint_axis)
    return layers.Dense(
        units,
        activation=activation,
        kernel_initializer=o.kernel or "glorot_uniform",
        bias_initializer=o.bias,
        kernel_constraint=constraint,
        name=name,
    )


def _end(data: Data, o: Options) -> list[layers.Layer]:
    output = data.output if o.output == "as the data needs" else o.output
    parts: list[layers.Layer] = [layers.Dropout(o.dropout)] if o.dropout else []
    parts.append(layers.Dense(data.units, activation=output, name="output"))
    return parts + ([layers.Dropout(o.dropout_on_output)] if o.dropout_on_output else [])


def _mlp(depth: int, activation: str, norm: bool = False, width: int = 48) -> Callable:
    def make(data: Data, o: Options) -> keras.Model:
        name = o.activation or activation
        parts: list[layers.Layer] = []
        for i in range(depth):
            parts.append(_dense(width, None if norm else name, o, f"hidden_{i + 1}"))
            parts += [layers.BatchNormalization(), layers.Activation(name)] if norm else []
        return keras.Sequential([keras.Input(data.x.shape[1:]), *parts, *_end(data, o)])

    return make


def _residual(data: Data, o: Options) -> keras.Model:
    inputs = keras.Input(data.x.shape[1:])
    x = _dense(48, None, o, "stem")(inputs)
    for i in range(3):
        branch = layers.Activation(o.activation or "relu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, _dense(48, None, o, f"branch_{i + 1}")(branch)])
    x = layers.Activation(o.activation or "relu")(x)
    for part in _end(data, o):
        x = part(x)
    return keras.Model(inputs, x)


def _cnn(norm: bool) -> Callable:
    def make(data: Data, o: Options) -> keras.Model:
        constraint = None
        if o.constraint_axis is not None:
            constraint = keras.constraints.MaxNorm(1.0, axis=0)
        parts: list[layers.Layer] = []
        for i, (filters, stride) in enumerate([(16, 1), (24, 2), (32, 1), (32, 2)]):
            parts.append(
                layers.Conv2D(
                    filters,
                    3,
                    strides=stride,
                    padding="same",
                    kernel_initializer=o.kernel or "glorot_uniform",
                    bias_initializer=o.bias,
                    kernel_constraint=constraint,
                    name=f"conv_{i + 1}",
                )
            )
            parts += [layers.BatchNormalization()] if norm else []
            parts.append(layers.Activation(o.activation or "relu"))
        parts.append(layers.Flatten())
        return keras.Sequential([keras.Input(data.x.shape[1:]), *parts, *_end(data, o)])

    return make


def _recurrent(data: Data, o: Options) -> keras.Model:
    parts = [
        layers.GRU(32, return_sequences=True, name="gru"),
        layers.Flatten(),
        _dense(48, o.activation or "relu", o, "hidden_1"),
    ]
    return keras.Sequential([keras.Input(data.x.shape[1:]), *parts, *_end(data, o)])


def _layer_norm(data: Data, o: Options) -> keras.Model:
    parts: list[layers.Layer] = []
    for i in range(4):
        parts += [_dense(48, None, o, f"hidden_{i + 1}"), layers.LayerNormalization()]
        parts.append(layers.Activation(o.activation or "gelu"))
    return keras.Sequential([keras.Input(data.x.shape[1:]), *parts, *_end(data, o)])


def _two_inputs(data: Data, o: Options) -> keras.Model:
    name = o.activation or "relu"
    inputs = [keras.Input(x.shape[1:]) for x in data.x]
    x = layers.Concatenate()(
        [_dense(32, name, o, f"view_{i + 1}")(x) for i, x in enumerate(inputs)]
    )
    for i in range(3):
        x = _dense(48, name, o, f"hidden_{i + 1}")(x)
    for part in _end(data, o):
        x = part(x)
    return keras.Model(inputs, x)


def _nested(data: Data, o: Options) -> keras.Model:
    """A model inside of a model, called by way of another one."""
    name = o.activation or "relu"
    inner = keras.Sequential(
        [keras.Input((48,)), *(_dense(48, name, o, f"inner_{i + 1}") for i in range(3))],
        name="inner",
    )
    inputs = keras.Input(data.x.shape[1:])
    x = inner(_dense(48, name, o, "stem")(inputs))
    for part in [_dense(48, name, o, "neck"), *_end(data, o)]:
        x = part(x)
    return keras.Model(inputs, x)


def _conv_1d(data: Data, o: Options) -> keras.Model:
    parts: list[layers.Layer] = []
    for i, filters in enumerate((24, 24, 32, 32)):
        parts += [
            layers.Conv1D(
                filters,
                5,
                padding="same",
                activation=o.activation or "relu",
                kernel_initializer=o.kernel or "glorot_uniform",
                bias_initializer=o.bias,
                kernel_constraint=_along_rows(o),
                name=f"conv_{i + 1}",
            )
        ]
        parts += [layers.MaxPooling1D()] if i % 2 else []
    end = [layers.Flatten(), *_end(data, o)]
    return keras.Sequential([keras.Input(data.x.shape[1:]), *parts, *end])


def _along_rows(o: Options) -> Any:
    """What Keras does if no axis is said, which suits dense layers alone."""
    return None if o.constraint_axis is None else keras.constraints.MaxNorm(1.0, axis=0)


def _separable(data: Data, o: Options) -> keras.Model:
    parts: list[layers.Layer] = []
    for i, filters in enumerate((24, 32, 32)):
        name = f"separable_{i + 1}"
        parts += [
            layers.SeparableConv2D(filters, 3, padding="same", bias_initializer=o.bias, name=name),
            layers.BatchNormalization(),
            layers.Activation(o.activation or "relu"),
        ]
        parts += [layers.MaxPooling2D()] if i < 2 else []
    parts.append(layers.Flatten())
    return keras.Sequential([keras.Input(data.x.shape[1:]), *parts, *_end(data, o)])


def _lstm(data: Data, o: Options) -> keras.Model:
    parts = [
        layers.Conv1D(16, 4, strides=2, name="stem"),
        layers.Bidirectional(layers.LSTM(16, return_sequences=True), name="both"),
        layers.Flatten(),
        _dense(32, o.activation or "relu", o, "hidden_1"),
    ]
    return keras.Sequential([keras.Input(data.x.shape[1:]), *parts, *_end(data, o)])


def _attention(data: Data, o: Options) -> keras.Model:
    """Patches of the sequence with positions, and two blocks of a transformer."""
    inputs = keras.Input(data.x.shape[1:])
    x = layers.Conv1D(32, 4, strides=4, name="patches")(inputs)
    x = _Positions(name="positions")(x)
    for i in range(2):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, 8, name=f"attention_{i + 1}")(y, y)])
        y = _dense(64, o.activation or "relu", o, f"wide_{i + 1}")(layers.LayerNormalization()(x))
        x = layers.Add()([x, _dense(32, None, o, f"narrow_{i + 1}")(y)])
    x = layers.Flatten()(layers.LayerNormalization()(x))
    for part in _end(data, o):
        x = part(x)
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable("bench")
class _Positions(layers.Layer):
    """Adds a vector of its own to each position."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(
            shape=shape[1:], initializer=keras.initializers.RandomNormal(0.0, 0.02), name="table"
        )

    def call(self, x: Any) -> Any:
        return x + self.table


# Name: (data, maker, traits that faults ask for).
NETS: dict[str, tuple[Callable[[], Data], Callable, set[str]]] = {
    "digits relu 5": (digits, _mlp(5, "relu"), {"plain", "relu", "dense"}),
    "digits relu 10": (digits, _mlp(10, "relu"), {"plain", "relu", "dense", "deep"}),
    "digits tanh 6": (digits, _mlp(6, "tanh"), {"plain", "dense"}),
    "digits selu 8": (digits, _mlp(8, "selu"), {"plain", "dense", "deep"}),
    "digits elu 5": (digits, _mlp(5, "elu"), {"plain", "dense"}),
    "digits norm 4": (digits, _mlp(4, "relu", norm=True), {"norm", "dense"}),
    "digits residual": (digits, _residual, {"dense"}),
    "digits cnn": (digit_images, _cnn(False), {"plain", "relu", "conv"}),
    "digits cnn norm": (digit_images, _cnn(True), {"norm", "conv"}),
    "digits gru": (digit_rows, _recurrent, {"recurrent"}),
    "cancer relu 5": (cancer, _mlp(5, "relu"), {"plain", "relu", "dense"}),
    "cancer norm 3": (cancer, _mlp(3, "relu", norm=True), {"norm", "dense"}),
    "friedman relu 5": (friedman, _mlp(5, "relu"), {"plain", "relu", "dense", "regression"}),
    "friedman tanh 5": (friedman, _mlp(5, "tanh"), {"plain", "dense", "regression"}),
}
HELD_OUT: dict[str, tuple[Callable[[], Data], Callable, set[str]]] = {
    "blobs leaky 6": (blobs, _mlp(6, "leaky_relu"), {"plain", "dense"}),
    "blobs relu 12": (blobs, _mlp(12, "relu"), {"plain", "relu", "dense", "deep"}),
    "blobs layer norm": (blobs, _layer_norm, {"dense"}),
    "blobs two inputs": (two_views, _two_inputs, {"plain", "relu", "dense"}),
    "blobs nested": (blobs, _nested, {"plain", "relu", "dense"}),
    "rings relu 5": (rings, _mlp(5, "relu"), {"plain", "relu", "dense"}),
    "rings norm 4": (rings, _mlp(4, "elu", norm=True), {"norm", "dense"}),
    "waves conv": (waves, _conv_1d, {"plain", "relu", "conv"}),
    "waves lstm": (waves, _lstm, {"recurrent"}),
    "waves attention": (waves, _attention, {"dense"}),
    "shapes separable": (shapes, _separable, {"norm", "conv"}),
    "shapes plain": (shapes, _cnn(False), {"plain", "relu", "conv"}),
    "impedance tanh 8": (impedance, _mlp(8, "tanh"), {"plain", "dense", "regression", "deep"}),
    "impedance relu 6": (impedance, _mlp(6, "relu"), {"plain", "relu", "dense", "regression"}),
}
