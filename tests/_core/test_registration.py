import keras
import pytest

from kerastools._core.registration import register
from kerastools.layers import Dropout


def test_a_taken_name_is_refused_and_stays_with_its_holder():
    other = type("Dropout", (keras.layers.Layer,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match=r"kerastools\.layers\._dropout\.Dropout"):
        register(other)
    assert keras.saving.get_registered_object("kerastools>Dropout") is Dropout
