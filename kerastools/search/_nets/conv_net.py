"""`ConvNet`: a hypermodel of convolutional classifiers."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import keras_tuner

from kerastools.layers import Dropout
from kerastools.search._nets.classifier import classifier, require_positive
from kerastools.search._spaces import dropout


@dataclass(eq=False)
class ConvNet(keras_tuner.HyperModel):
    """HyperModel of convolutional image classifiers, for keras-tuner.

    Each block is Conv2D → BatchNormalization → activation → 2 × 2 max pooling. After the last block
    follow a dense layer of `units`, `kerastools.layers.Dropout` and the head. Kernels are
    initialized for their activation. Searched are the dropout rate p (0.4 to 0.5), the optimizer
    (`sgd` or `adam`), its learning rate η, and γ (for `sgd`, Nesterov momentum) or β₁ and β₂ (for
    `adam`).

    Args:
        input_shape: Shape of an image: height, width and channels.
        num_classes: Number of classes; labels are integers >= 0.
        filters: Number of filters of each block.
        kernel_size: Height and width of the kernels.
        units: Units of the dense layer.
        activation: Activation of the hidden layers.
        seed: Integer that seeds kernels and dropout masks, the same for all trials; by default
            other ones in each trial.

    Raises:
        ValueError: If `input_shape` has not three dimensions or is too small for the blocks, or a
            number is not positive.

    Example:

    >>> hypermodel = ConvNet((8, 8, 1), num_classes=10, filters=(8, 16))
    >>> hp = keras_tuner.HyperParameters()
    >>> hypermodel.build(hp).output_shape
    (None, 10)
    >>> sorted(hp.values)
    ['1 - momentum', 'dropout', 'optimizer', 'sgd_learning_rate']
    """

    input_shape: Sequence[int]
    num_classes: int
    filters: Sequence[int] = (32, 64)
    kernel_size: int = 3
    units: int = 64
    activation: str = "relu"
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self.input_shape = tuple(self.input_shape)
        self.filters = tuple(self.filters)
        blocks = len(self.filters)
        if len(self.input_shape) != 3 or min(self.input_shape[:2]) < 2**blocks:
            raise ValueError(
                f"ConvNet needs an input_shape of height, width and channels, at least "
                f"{2**blocks} pixels high and wide for {blocks} blocks. Received "
                f"input_shape={self.input_shape}."
            )
        require_positive(self, "input_shape", "num_classes", "filters", "kernel_size", "units")

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Returns a compiled model for the hyperparameters of one trial."""
        layers = [keras.Input(self.input_shape)]
        for i, filters in enumerate(self.filters, 1):
            layers += [
                keras.layers.Conv2D(
                    filters, self.kernel_size, padding="same", use_bias=False, name=f"conv_{i}"
                ),
                keras.layers.BatchNormalization(name=f"norm_{i}"),
                keras.layers.Activation(self.activation, name=f"activation_{i}"),
                keras.layers.MaxPooling2D(name=f"pool_{i}"),
            ]
        layers += [
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(self.units, activation=self.activation, name="hidden"),
            Dropout(dropout(hp, "convolutional"), seed=self.seed, name="dropout"),
        ]
        return classifier(hp, layers, self.num_classes, "conv_net", self.seed)
