"""Compiling a function of tensors on each backend."""

from collections.abc import Callable
from typing import Any

import keras


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function` compiled; its arguments are structures of arrays, and it has no state.

    Variables are to be passed by value, through a `keras.StatelessScope`: on JAX a variable that is
    read inside would be a constant.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(
            tf.autograph.experimental.do_not_convert(function), reduce_retracing=True
        )
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
