"""Random graphs of every supported layer, with branches, shared layers and several outputs."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

from kerastools.folding import fold_batch_norm
from tests.folding.networks import num_batch_norms, outputs, sample

pytestmark = pytest.mark.tensorflow  # JAX compiles every shape anew: hours instead of minutes


class Grower:
    """Grows a graph by one call at a time; `choices`, a list of integers, decides which."""

    def __init__(self, choices, dtype):
        self.choices = iter(choices)
        keras.config.set_dtype_policy(dtype)
        shape = self.choose([(7, 7, 3), (6, 5, 4), (9, 4), (8,)])
        self.tensors = [keras.Input(shape, dtype=dtype)]
        self.inputs = list(self.tensors)
        self.linear = []

    def choose(self, options):
        return options[next(self.choices, 0) % len(options)]

    def tensor(self):
        # Mostly the newest: long chains fold more than wide graphs.
        recent = self.tensors[-3:]
        return recent[-1] if self.choose([True, True, False]) else self.choose(recent)

    def grow(self):
        x = self.tensor()
        makers = [self.batch_norm, self.batch_norm, self.linear_layer, self.linear_layer]
        makers += [self.passage, self.passage, self.merge, self.activation, self.shared, self.op]
        makers.append(self.nested)
        y = self.choose(makers)(x)
        if y is not None:
            self.tensors.append(y)

    def batch_norm(self, x):
        rank = len(x.shape)
        axis = self.choose([-1, -1, -1, 1]) if rank > 2 else -1
        scale, center = self.choose([True, False]), self.choose([True, False])
        return layers.BatchNormalization(axis=axis, scale=scale, center=center)(x)

    def linear_layer(self, x):
        rank, units = len(x.shape), self.choose([2, 4])
        common = {
            "use_bias": self.choose([True, False]),
            "activation": self.choose([None, None, "relu"]),
        }
        letters = "abcd"[:rank]
        equation = f"{letters},{letters[-1]}e->{letters[:-1]}e"
        einsum = {"bias_axes": self.choose(["e", None]), "activation": common["activation"]}
        options = [
            lambda: layers.Dense(units, **common),
            lambda: layers.EinsumDense(equation, (*x.shape[1:-1], units), **einsum),
        ]
        if rank == 3:
            size = {"kernel_size": min(self.choose([1, 2]), x.shape[1])}
            padding = {"padding": self.choose(["valid", "same", "causal"])}
            plain = {"padding": self.choose(["valid", "same"])}
            options = [
                *options,
                lambda: layers.Conv1D(units, **size, **padding, **common),
                lambda: layers.DepthwiseConv1D(**size, **plain, **common),
                lambda: layers.SeparableConv1D(units, **size, **plain, **common),
                lambda: layers.Conv1DTranspose(units, **size, **plain, **common),
            ]
        if rank == 4:
            size = {"kernel_size": min(self.choose([1, 2, 3]), *x.shape[1:3])}
            plain = {"padding": self.choose(["valid", "same"])}
            multiplier = {"depth_multiplier": self.choose([1, 2])}
            groups = 2 if x.shape[-1] % 2 == 0 and self.choose([True, False]) else 1
            strides = {"strides": self.choose([1, 2])}
            options = [
                *options,
                lambda: layers.Conv2D(units, groups=groups, **size, **plain, **strides, **common),
                lambda: layers.DepthwiseConv2D(**size, **plain, **multiplier, **common),
                lambda: layers.SeparableConv2D(units, **size, **plain, **multiplier, **common),
                lambda: layers.Conv2DTranspose(units, **size, **plain, **strides, **common),
            ]
        layer = self.choose(options)()
        # Drawn once for all weights, in NumPy, which is far cheaper.
        for name in vars(layer):
            if name.endswith(("kernel_initializer", "wise_initializer")):
                setattr(layer, name, keras.initializers.Zeros())
        y = layer(x)
        self.linear.append((layer, x.shape))
        return y

    def passage(self, x):
        rank = len(x.shape)
        options = [
            lambda: layers.Dropout(0.5),
            lambda: layers.Identity(),
            lambda: layers.Activation("linear"),
        ]
        if rank > 2:
            options.append(lambda: layers.Flatten())
        if rank == 3:
            options += [
                lambda: layers.AveragePooling1D(2, 1, padding="same"),
                lambda: layers.MaxPooling1D(2, 1, padding="same"),
                lambda: layers.GlobalAveragePooling1D(),
                lambda: layers.ZeroPadding1D(1),
                lambda: layers.Reshape((x.shape[1], 1, x.shape[2])),
            ]
        if rank == 4:
            keepdims = self.choose([True, False])
            options += [
                lambda: layers.AveragePooling2D(2, 1, padding="same"),
                lambda: layers.MaxPooling2D(2, 1, padding="same"),
                lambda: layers.GlobalAveragePooling2D(keepdims=keepdims),
                lambda: layers.GlobalMaxPooling2D(keepdims=keepdims),
                lambda: layers.ZeroPadding2D(1),
                lambda: layers.UpSampling2D(2, interpolation=self.choose(["nearest", "bilinear"])),
                lambda: layers.Reshape((x.shape[1] * x.shape[2], x.shape[3])),
            ]
        y = self.choose(options)()(x)
        return y if np.prod(y.shape[1:]) <= 2000 else None

    def merge(self, x):
        partners = [t for t in self.tensors if t.shape[1:-1] == x.shape[1:-1]]
        if not partners:
            return None
        other = self.choose(partners)
        if other.shape == x.shape and self.choose([True, False]):
            return layers.Add()([x, other])
        return layers.Concatenate()([x, other]) if x.shape[-1] + other.shape[-1] < 40 else None

    def activation(self, x):
        return layers.ReLU()(x)

    def shared(self, x):
        """Calls a linear layer again."""
        again = [layer for layer, shape in self.linear if shape == x.shape]
        return self.choose(again)(x) if again else None

    def op(self, x):
        return self.choose([lambda: x * 0.5, lambda: keras.ops.tanh(x)])()

    def nested(self, x):
        """Calls a model made on the way, once or twice, whose layers others may call too."""
        inner = Grower.__new__(Grower)
        inner.choices, inner.linear = self.choices, self.linear
        inner.inputs = [keras.Input(x.shape[1:], dtype=x.dtype)]
        inner.tensors = list(inner.inputs)
        for _ in range(self.choose([1, 2, 3])):
            inner.grow()
        y = inner.tensors[-1]
        if y is inner.inputs[0]:
            return None
        model = keras.Model(inner.inputs, y)
        z = model(x)
        return model(z) if z.shape == x.shape and self.choose([True, False, False]) else z

    def model(self):
        ends = [self.tensors[-1]]
        if self.choose([False, False, True]):
            ends.append(self.choose(self.tensors[1:] or self.tensors))
        return keras.Model(self.inputs, ends)


def build(choices, dtype):
    grower = Grower(choices, dtype)
    for _ in range(3 + len(choices) // 5):
        grower.grow()
    return grower.model()


def error(got, want):
    """Returns the largest difference over all outputs, each relative to its largest value."""
    pairs = zip(got, want, strict=True)
    return max(np.abs(g - w).max() / max(np.abs(w).max(), 1e-3) for g, w in pairs)


def random_weights(model, seed=0):
    """Gives every weight a random value: mixed-sign γ, statistics far from 0 and 1."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        if "variance" in v.path:
            v.assign(rng.uniform(0.05, 2.0, v.shape))
        elif "kernel" in v.path:
            v.assign(rng.normal(size=v.shape) / np.sqrt(np.prod(v.shape[:-1])))
        else:
            v.assign(rng.uniform(-2.0, 2.0, v.shape))
    return model


def check(choices):
    """Folding is exact: to 1e-6 in float64, and within twice the original's error in float32."""
    exact = random_weights(build(choices, "float64"))
    x = sample(exact)
    want = outputs(exact, x)
    folded, report = fold_batch_norm(exact, return_report=True)
    assert num_batch_norms(folded) == report.num_kept
    assert error(outputs(folded, x), want) <= 1e-6
    # Rounding depends little on the graph: every eighth pays for a second model in float32.
    if sum(choices) % 8 == 0:
        single = build(choices, "float32")
        single.set_weights(exact.get_weights())
        before = error(outputs(single, x), want)
        after = error(outputs(fold_batch_norm(single), x), want)
        assert after <= 2 * before + 1e-6
    return report


CHOICES = st.lists(st.integers(0, 10**6), min_size=5, max_size=35)
COMMON = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@pytest.mark.slow
@given(CHOICES)
@settings(max_examples=120, **COMMON)
def test_random_graphs_fold_exactly(choices):
    check(choices)


@pytest.mark.corpora
@given(CHOICES)
@settings(max_examples=5000, **COMMON)
def test_many_random_graphs_fold_exactly(choices):
    check(choices)
