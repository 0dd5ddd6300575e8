"""Stacking rules of recurrent layers: one matmul for all inputs, one per step for the states."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kerastools.search._stacked.rules.elementwise import is_keras_function
from kerastools.search._stacked.rules.registry import find_rule, stacks
from kerastools.search._stacked.stacked_tensor import StackedTensor


def _is_plain(layer: Any) -> bool:
    functions = [layer.activation, getattr(layer, "recurrent_activation", layer.activation)]
    return (
        not layer.dropout
        and not layer.recurrent_dropout
        and not layer.stateful
        and not layer.return_state
        and all(map(is_keras_function, functions))
    )


@stacks(keras.layers.LSTM, where=_is_plain)
def lstm(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns h, where c ← f c + i g and h = o tanh(c), with gates i, f, g, o."""
    recurrent = values.get(layer.cell.recurrent_kernel)
    gate = layer.recurrent_activation

    def step(state: Any, z: Any) -> Any:
        h, c = state
        i, f, g, o = ops.split(z + ops.matmul(h, recurrent), 4, axis=-1)
        c = gate(f) * c + gate(i) * layer.activation(g)
        h = gate(o) * layer.activation(c)
        return h, c

    return _run(layer, values, x, step, layer.cell.bias, num_states=2)


@stacks(keras.layers.GRU, where=_is_plain)
def gru(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns h ← z h + (1 − z) g, with the reset gate r before or after the matmul."""
    recurrent, units = values.get(layer.cell.recurrent_kernel), layer.units
    gate, bias = layer.recurrent_activation, layer.cell.bias
    both = values.get(bias) if bias is not None else None
    inner_bias = both[:, None, 1] if both is not None and layer.reset_after else 0.0
    outer_bias = None
    if both is not None:
        outer_bias = both[:, 0] if layer.reset_after else both

    def step(state: Any, xs: Any) -> Any:
        (h,) = state
        if layer.reset_after:
            inner = ops.matmul(h, recurrent) + inner_bias
        else:
            inner = ops.matmul(h, recurrent[..., : 2 * units])
        z = gate(xs[..., :units] + inner[..., :units])
        r = gate(xs[..., units : 2 * units] + inner[..., units : 2 * units])
        if layer.reset_after:
            candidate = r * inner[..., 2 * units :]
        else:
            candidate = ops.matmul(r * h, recurrent[..., 2 * units :])
        g = layer.activation(xs[..., 2 * units :] + candidate)
        h = z * h + (1 - z) * g
        return (h,)

    return _run(layer, values, x, step, outer_bias)


@stacks(keras.layers.SimpleRNN, where=_is_plain)
def simple_rnn(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns h ← f(xW + hR + b)."""
    recurrent = values.get(layer.cell.recurrent_kernel)

    def step(state: Any, z: Any) -> Any:
        h = layer.activation(z + ops.matmul(state[0], recurrent))
        return (h,)

    return _run(layer, values, x, step, layer.cell.bias)


def _has_rules(layer: Any) -> bool:
    return all(find_rule(half) for half in (layer.forward_layer, layer.backward_layer)) and (
        layer.merge_mode in ("concat", "sum", "ave", "mul") and not layer.stateful
    )


@stacks(keras.layers.Bidirectional, where=_has_rules)
def bidirectional(layer: Any, values: Any, training: bool, x: StackedTensor) -> StackedTensor:
    """Returns the merged outputs of the forward and the backward layer."""
    forward, backward = (
        find_rule(half)(half, values, training, x).stacked  # type: ignore[misc]
        for half in (layer.forward_layer, layer.backward_layer)
    )
    if layer.return_sequences:
        backward = ops.flip(backward, axis=2)
    merged = {
        "concat": lambda: ops.concatenate([forward, backward], axis=-1),
        "sum": lambda: forward + backward,
        "ave": lambda: (forward + backward) / 2,
        "mul": lambda: forward * backward,
    }[layer.merge_mode]()
    return StackedTensor(x.size, stacked=merged)


def _run(
    layer: Any, values: Any, x: StackedTensor, step: Any, bias: Any, num_states: int = 1
) -> StackedTensor:
    kernel = values.get(layer.cell.kernel)
    _, length, features = x.shape
    inputs = x.stacked
    z = ops.matmul(ops.reshape(inputs, (x.size, -1, features)), kernel)
    if bias is not None:
        z = z + (values.get(bias) if isinstance(bias, keras.Variable) else bias)[:, None]
    z = ops.reshape(z, (x.size, -1, length, kernel.shape[-1]))
    z = ops.transpose(z, (2, 0, 1, 3))
    if layer.go_backwards:
        z = ops.flip(z, axis=0)
    zero = ops.zeros_like(z[0, ..., : layer.units])
    outputs, *_ = tf.scan(step, z, (zero,) * num_states)
    if layer.return_sequences:
        return StackedTensor(x.size, stacked=ops.transpose(outputs, (1, 2, 0, 3)))
    return StackedTensor(x.size, stacked=outputs[-1])
