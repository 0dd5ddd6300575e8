"""Fails when Keras renames what holds the slots of an optimizer."""

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.optimizer_state import (
    KERAS_SLOTS,
    common_state,
    counts_batches,
    momentum_product,
)
from kerastools._exchange.optimizers import TWINS

OPTIONS = {
    keras.optimizers.SGD: {"momentum": 0.5},
    keras.optimizers.RMSprop: {"momentum": 0.5, "centered": True},
    keras.optimizers.Adam: {"amsgrad": True},
    keras.optimizers.AdamW: {"amsgrad": True},
}


@pytest.mark.parametrize(("ours", "theirs"), TWINS.items())
def test_every_slot_has_its_name_in_keras(ours, theirs):
    common = {"use_ema": True, "gradient_accumulation_steps": 2, **OPTIONS.get(theirs, {})}
    made = [cls(**common) for cls in (ours, theirs)]
    for optimizer in made:
        optimizer.build([keras.Variable(np.zeros(3, "float32"))])
    # The count of steps, the gradients added up, the average.
    assert len(list(common_state(*made))) == 3 + len(KERAS_SLOTS[theirs])
    assert (momentum_product(made[1]) is not None) == (theirs is keras.optimizers.Nadam)
    assert counts_batches(made[1])
    assert not counts_batches(theirs())
