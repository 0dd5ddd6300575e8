"""What the tests of stacked models share."""

import numpy as np

from kerastools.search._reuse.model_cache import state_of


def weights_of(stacked, slot):
    """Returns the present weights in a slot, in the order of `get_weights`."""
    stacked.keep_best(np.ones(stacked.size, bool))
    variables, arrays = state_of(stacked.template), stacked.best_state(slot)
    where = {id(v): array for v, array in zip(variables, arrays, strict=True)}
    return [where[id(v)] for v in stacked.template.weights]
