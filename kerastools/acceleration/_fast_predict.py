"""Prediction as one compiled call, without what `predict` does around it."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerastools._core.batches import batches_of, is_dataset, require_end
from kerastools._core.checks import require_array, require_built


def fast_predict(model: keras.Model, batch_size: int = 1024) -> Callable[[Any], Any]:
    """Returns a function that predicts like `model.predict`, without its overhead per call.

    `predict` makes a dataset, an iterator and a list of callbacks for every call, which on small
    inputs takes tens of milliseconds. Use this to answer single requests, to act in an environment,
    or wherever a model is asked often and little. The weights are read at every call, so it goes on
    predicting rightly while the model trains between the calls.

    The first call compiles. On TensorFlow one compilation serves any number of rows; on JAX the
    number of rows is filled up to a power of two, so that there are few.

    Args:
        model: A built model. It is not changed.
        batch_size: More rows than this are predicted in parts, to bound the memory.

    Returns:
        A function of what `model.predict` takes as `x`, arrays or a dataset that ends, that
        returns NumPy arrays in the structure of the model's outputs.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built or `batch_size` is not positive.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="softmax")])
    >>> predict = fast_predict(model)
    >>> predict(np.ones((1, 3))).shape
    (1, 2)
    """
    require_built(model, "fast_predict")
    if batch_size < 1:
        raise ValueError(f"fast_predict needs batch_size to be positive. Received {batch_size}.")
    tensorflow = keras.backend.backend() == "tensorflow"
    forward = _tensorflow_forward(model) if tensorflow else _jax_forward(model)

    def predict(x: Any) -> Any:
        if is_dataset(x):
            require_end(x, "fast_predict")
            batches = [predict(batch[0]) for batch in batches_of(x)]
            return keras.tree.map_structure(lambda *p: np.concatenate(p), *batches)
        x = keras.tree.map_structure(_array, x)
        rows = len(keras.tree.flatten(x)[0])
        if rows <= batch_size:
            return forward(x, rows)
        parts = []
        for i in range(0, rows, batch_size):
            part = keras.tree.map_structure(lambda a, i=i: a[i : i + batch_size], x)
            parts.append(forward(part, min(batch_size, rows - i)))
        return keras.tree.map_structure(lambda *p: np.concatenate(p), *parts)

    return predict


def _array(x: Any) -> np.ndarray:
    array = require_array("x", x, "fast_predict")
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(keras.config.floatx(), copy=False)
    if not array.ndim or not len(array):
        raise ValueError(
            f"fast_predict needs a batch of at least one row. Received an array of shape "
            f"{array.shape}. For a single example pass x[None]."
        )
    return array


def _tensorflow_forward(model: Any) -> Callable[..., Any]:
    import tensorflow as tf

    compiled: dict[Any, Any] = {}

    def forward(x: Any, rows: int) -> Any:
        leaves = keras.tree.flatten(x)
        key = tuple((a.shape[1:], a.dtype) for a in leaves)
        if key not in compiled:
            spec = keras.tree.map_structure(
                lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), x
            )
            compiled[key] = tf.function(
                tf.autograph.experimental.do_not_convert(lambda x: model(x, training=False)),
                input_signature=[spec],
            )
        return keras.tree.map_structure(lambda t: t.numpy(), compiled[key](x))

    return forward


def _jax_forward(model: Any) -> Callable[..., Any]:
    import jax

    compiled = jax.jit(
        lambda trainable, fixed, x: model.stateless_call(trainable, fixed, x, training=False)[0]
    )

    def forward(x: Any, rows: int) -> Any:
        filled = 1 << (rows - 1).bit_length()
        if filled != rows:
            x = keras.tree.map_structure(lambda a: np.resize(a, (filled, *a.shape[1:])), x)
        trainable = [v.value for v in model.trainable_variables]
        fixed = [v.value for v in model.non_trainable_variables]
        return keras.tree.map_structure(
            lambda t: np.asarray(t)[:rows], compiled(trainable, fixed, x)
        )

    return forward
