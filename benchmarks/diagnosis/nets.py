"""The sound nets of the fault bench, and the data that they learn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_breast_cancer, load_digits, make_friedman1


@dataclass
class Data:
    """Rows to train and to test on; standardised where it is sound."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
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
