"""How Keras turns what `fit` is given into batches, and in which order.

Not public in Keras: the adapter that `fit` accepts as `x` in place of data, the one it would have
made, which knows the batches, and the rows in it.
`tests/_core/keras_private/test_data_adapters.py` fails if they change.
"""

from typing import Any

import keras
import numpy as np
from keras.src.trainers.data_adapters import array_slicing, get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

__all__ = ["ArrayRows", "DataAdapter", "array_rows", "get_data_adapter", "split_validation"]


def split_validation(arrays: Any, fraction: float) -> tuple[Any, Any]:
    """Returns training and validation arrays, cut where Keras's `validation_split` cuts them."""
    return array_slicing.train_validation_split(arrays, validation_split=fraction)


class ArrayRows:
    """The rows of arrays that `fit` was given, and the order in which Keras would take them.

    How an epoch is shuffled differs between versions and backends of Keras. So an adapter of
    Keras's own shuffles the numbers of the rows, in one batch. It has to be told of epochs.
    """

    def __init__(self, adapter: Any) -> None:
        self._rows = array_slicing.convert_to_sliceable(adapter._inputs, "numpy")
        num = adapter._num_samples
        self.numbers = ArrayDataAdapter(
            np.arange(num, dtype="int64"), batch_size=num, shuffle=adapter._shuffle
        )
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # Once in a `fit`, as Keras does: with a seed, and from Keras 3.16 on, each epoch begins
            # it again and has the same order.
            self._dataset = self.numbers.get_tf_dataset()
            self._order: Any = None
            seeded = tf.compat.v1.get_seed(None) != (None, None)
            self._changes = adapter._shuffle and not seeded and not hasattr(adapter, "_epoch")

    def order(self) -> np.ndarray:
        """Returns the numbers of the rows in this epoch's order; called once an epoch."""
        if keras.backend.backend() != "tensorflow":
            return _only(self.numbers.get_jax_iterator())
        if self._order is None:
            self._order = _only(self._dataset)
        elif self._changes:  # Drawn without a seed: any order will do, and a dataset costs 20 ms.
            self._order = np.random.default_rng().permutation(self._order)
        return self._order

    def take(self, numbers: np.ndarray) -> Any:
        """Returns these rows, cast as Keras casts them, in the structure of a batch."""
        return keras.tree.map_structure(
            lambda rows: None if rows is None else np.asarray(rows.convert_to_numpy(rows[numbers])),
            self._rows,
        )

    @property
    def not_dense(self) -> str | None:
        """The kind of the first sparse or ragged array, if there is one."""
        kinds = (
            array_slicing.TensorflowRaggedSliceable,
            array_slicing.TensorflowSparseSliceable,
            array_slicing.JaxSparseSliceable,
            array_slicing.ScipySparseSliceable,
        )
        found = (type(a).__name__ for a in keras.tree.flatten(self._rows) if isinstance(a, kinds))
        return next(found, None)


def _only(batches: Any) -> np.ndarray:
    (batch,) = batches
    return np.asarray(keras.tree.flatten(batch)[0])


def array_rows(adapter: Any) -> ArrayRows | None:
    """Returns the rows behind `adapter`; None if it holds no arrays or shuffles inside batches."""
    if isinstance(adapter, ArrayDataAdapter) and adapter._shuffle != "batch":
        return ArrayRows(adapter)
    return None
