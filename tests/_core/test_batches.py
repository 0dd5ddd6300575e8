import keras
import numpy as np
import pytest

from kerastools import KerastoolsNotice
from kerastools._core.batches import gather, is_dataset


class Pairs(keras.utils.PyDataset):
    """Batches of 4 rows; without a number of them it has no end."""

    def __init__(self, num):
        super().__init__()
        self.num = num

    @property
    def num_batches(self):
        return self.num

    def __getitem__(self, i):
        rows = np.arange(4 * i, 4 * i + 4)
        return {"a": rows, "b": -rows}, rows % 2


def test_rows_of_a_dataset_are_joined_in_their_structure():
    x, y, batch_size = gather(Pairs(3), "f")
    np.testing.assert_array_equal(x["b"], -np.arange(12))
    np.testing.assert_array_equal(y, np.arange(12) % 2)
    assert batch_size == 4
    assert gather(iter([np.ones((2, 3))]), "f", 9)[1] is None


def test_first_rows_of_an_endless_dataset_are_taken_where_some_will_do():
    with pytest.warns(KerastoolsNotice, match="f takes the first 8 rows"):
        x, _, _ = gather(Pairs(None), "f", 7)
    assert len(x["a"]) == 8


@pytest.mark.parametrize("data", [Pairs(None), iter([np.ones(2)])], ids=["dataset", "generator"])
def test_endless_data_are_refused_where_all_rows_are_needed(data):
    with pytest.raises(ValueError, match="f needs data that ends"):
        gather(data, "f")


def test_rows_of_several_shapes_and_empty_data_are_refused():
    with pytest.raises(ValueError, match="rows of one shape"):
        gather(iter([np.ones((2, 3)), np.ones((2, 4))]), "f", 9)
    with pytest.raises(ValueError, match="empty dataset"):
        gather(Pairs(0), "f")


def test_arrays_and_structures_of_arrays_are_no_dataset():
    arrays = np.ones(3), [np.ones(3)], {"a": np.ones(3)}, keras.ops.ones(3), "text", 3
    assert not any(map(is_dataset, arrays))
