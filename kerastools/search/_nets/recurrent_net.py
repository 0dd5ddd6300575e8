"""`RecurrentNet`: a hypermodel of recurrent classifiers."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import keras_tuner

from kerastools.layers import Dropout
from kerastools.search._nets.classifier import classifier, require_positive
from kerastools.search._spaces import dropout

_CELLS = ("gru", "lstm")


@dataclass(eq=False)
class RecurrentNet(keras_tuner.HyperModel):
    """HyperModel of recurrent sequence classifiers, for keras-tuner.

    `depth` recurrent layers of `units`, each followed by `kerastools.layers.Dropout` with one rate
    for all, and the head on the last step. Kernels are initialized gate by gate. Gradients are
    clipped, because they can explode over many steps. Searched are the dropout rate p (0.2 to 0.3),
    the optimizer (`sgd` or `adam`), its learning rate η, and γ (for `sgd`, Nesterov momentum) or β₁
    and β₂ (for `adam`).

    Args:
        input_shape: Shape of a sequence: steps (or `None`) and features.
        num_classes: Number of classes; labels are integers >= 0.
        units: Units of each layer.
        depth: Number of layers.
        cell: `"gru"` or `"lstm"`.
        clipnorm: Maximum gradient norm of each variable.
        seed: Integer that seeds kernels and dropout masks, the same for all trials; by default
            other ones in each trial.

    Raises:
        ValueError: If `input_shape` has not two dimensions, a number is not positive, or `cell` is
            unknown.

    Example:

    >>> hypermodel = RecurrentNet((8, 8), num_classes=10, units=16)
    >>> hp = keras_tuner.HyperParameters()
    >>> hypermodel.build(hp).output_shape
    (None, 10)
    >>> sorted(hp.values)
    ['1 - momentum', 'dropout', 'optimizer', 'sgd_learning_rate']
    """

    input_shape: Sequence[int | None]
    num_classes: int
    units: int = 64
    depth: int = 1
    cell: str = "gru"
    clipnorm: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.input_shape = tuple(self.input_shape)
        if len(self.input_shape) != 2 or not self.input_shape[1]:
            raise ValueError(
                "RecurrentNet needs an input_shape of steps and features. Received "
                f"input_shape={self.input_shape}."
            )
        require_positive(self, "num_classes", "units", "depth", "clipnorm")
        if self.cell not in _CELLS:
            raise ValueError(f"RecurrentNet needs cell in {_CELLS}. Received {self.cell!r}.")

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Returns a compiled model for the hyperparameters of one trial."""
        rate = dropout(hp, "recurrent")
        layers = [keras.Input(self.input_shape)]
        for i in range(1, self.depth + 1):
            layers += [
                getattr(keras.layers, self.cell.upper())(
                    self.units, return_sequences=i < self.depth, name=f"{self.cell}_{i}"
                ),
                Dropout(
                    rate, seed=None if self.seed is None else self.seed + i, name=f"dropout_{i}"
                ),
            ]
        return classifier(hp, layers, self.num_classes, "recurrent_net", self.seed, self.clipnorm)
