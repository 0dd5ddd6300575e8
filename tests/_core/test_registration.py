import keras
import pytest

import kerastools
from kerastools._core.registration import register
from kerastools.layers import Dropout


def test_a_taken_name_is_refused_and_stays_with_its_holder():
    other = type("Dropout", (keras.layers.Layer,), {"__module__": "elsewhere"})
    with pytest.raises(ValueError, match=r"kerastools\.layers\._dropout\.Dropout"):
        register(other)
    assert keras.saving.get_registered_object("kerastools>Dropout") is Dropout


def test_a_subclass_may_keep_its_arguments_under_other_names():
    class Ball(kerastools.constraints.MaxNorm):
        def __init__(self, radius, **kwargs):
            super().__init__(max_value=radius, **kwargs)
            self._radius = radius

        def get_config(self):
            return {"radius": self._radius, "axis": super().get_config()["axis"]}

    assert Ball.from_config(Ball(3.0, axis=0).get_config()).max_value == 3.0
