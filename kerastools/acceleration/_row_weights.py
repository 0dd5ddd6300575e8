"""Batch normalisation's moving statistics, where the last batch is smaller."""

from typing import Any

import keras

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import kind_of
from kerastools.acceleration._loop_data import Stack


class _RowWeights:
    """Lets the rows of a last, smaller batch weigh as rows in the moving statistics.

    Keras lets every batch move the statistics by 1 − m, m being the momentum, however few rows it
    has. A batch with the part w of a full batch's rows should move them by 1 − mʷ; then w batches
    of equal statistics come to the same as a full one. What Keras has done is scaled afterwards by

        (1 − mʷ) / (1 − m).
    """

    def __init__(self, model: Any, training: bool) -> None:
        self.model = model
        self.momenta = {
            id(variable): layer.momentum
            for layer in normalizers(model)
            if training and layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        }

    def before(self, stack: Stack, state: list[Any]) -> list[Any] | None:
        """Returns a copy of the statistics if this stack needs the correction, else `None`."""
        if stack.is_usual or not self.momenta:
            return None
        if state:
            return [keras.ops.copy(state[0][1][i]) for i, _ in self._places()]
        return [keras.ops.copy(v) for _, v in self._places()]

    def after(self, before: list[Any], stack: Stack, state: Any) -> Any:
        """Returns the state with the correction; on TensorFlow the variables are corrected."""
        places = self._places()
        values = list(state[1]) if state is not None else None
        for old, (i, variable) in zip(before, places, strict=True):
            m = self.momenta[id(variable)]
            scale = (1 - m**stack.weight) / (1 - m) if m < 1 else stack.weight
            new = variable if values is None else values[i]
            corrected = old + scale * (keras.ops.convert_to_tensor(new) - old)
            if values is None:
                variable.assign(corrected)
            else:
                values[i] = corrected
        return state if values is None else (state[0], values, *state[2:])

    def _places(self) -> list[tuple[int, Any]]:
        variables = enumerate(self.model.non_trainable_variables)
        return [(i, v) for i, v in variables if id(v) in self.momenta]


def normalizers(model: Any) -> list[Any]:
    """Returns the batch normalisation layers of `model`, nested ones too."""
    return [layer for layer in sublayers(model) if kind_of(layer).moving_statistics and layer.built]
