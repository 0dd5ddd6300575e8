"""How Keras turns what `fit` is given into batches.

Not public in Keras: the adapter that `fit` accepts as `x` in place of data, and the one it would
have made, which knows the batches. `tests/acceleration/test_loop_data.py` fails if they change.
"""

from keras.src.trainers.data_adapters import array_slicing, get_data_adapter
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

__all__ = ["ArrayDataAdapter", "DataAdapter", "array_slicing", "get_data_adapter"]
