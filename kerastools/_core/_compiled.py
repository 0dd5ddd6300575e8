"""Compiling a function of tensors on each backend."""

from collections.abc import Callable, Sequence
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


def compiled_beside(function: Callable[..., Any], variables: Sequence[Any]) -> Callable[..., Any]:
    """Returns `function` compiled; it may read `variables`, as they are when it is called."""
    if keras.backend.backend() == "tensorflow":
        return compiled(function)  # Reads them where they lie.

    def scoped(values: Any, *arguments: Any) -> Any:
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(*arguments)

    inner = compiled(scoped)
    return lambda *arguments: inner([v.value for v in variables], *arguments)
