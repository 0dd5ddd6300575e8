"""The order of rows is that of Keras: fails when Keras's adapters change."""

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.data_adapters import array_rows, get_data_adapter

X = np.arange(46, dtype="float64").reshape(23, 2)


def adapter(**arguments):
    return get_data_adapter(x=X, batch_size=5, **arguments)


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_come_in_the_order_of_keras(shuffle):
    orders = []
    for ours in (False, True):
        keras.utils.set_random_seed(1)
        made = adapter(shuffle=shuffle)
        rows = array_rows(made)
        if keras.backend.backend() == "tensorflow":
            dataset = made.get_tf_dataset()
        found = []
        for _ in range(3):
            if ours:
                rows.numbers.on_epoch_begin()
                found.append(rows.take(rows.order())[:, 0])
                rows.numbers.on_epoch_end()
                continue
            on_tensorflow = keras.backend.backend() == "tensorflow"
            batches = dataset if on_tensorflow else made.get_jax_iterator()
            found.append(np.concatenate([np.asarray(batch)[:, 0] for batch in batches]))
            made.on_epoch_end()
        orders.append(np.stack(found))
    np.testing.assert_array_equal(*orders)
    assert (orders[0] != X[:, 0]).any() == shuffle


def test_what_has_no_order_of_rows_has_no_rows():
    assert array_rows(adapter(shuffle="batch")) is None
    assert array_rows(get_data_adapter(x=((rows,) for rows in [X]))) is None


def test_rows_are_cast_and_known_to_be_dense():
    rows = array_rows(adapter())
    assert rows.take(np.array([2, 0])).tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert rows.take(np.array([0])).dtype == "float32"
    assert rows.not_dense is None
    scipy = pytest.importorskip("scipy.sparse")
    sparse = array_rows(get_data_adapter(x=scipy.csr_matrix(X)))
    assert sparse.not_dense == "ScipySparseSliceable"
