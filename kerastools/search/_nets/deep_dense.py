"""`DeepDense`: a hypermodel of deep dense classifiers."""

from dataclasses import dataclass

import keras
import keras_tuner

from kerastools.constraints import MaxNorm
from kerastools.layers import Dropout
from kerastools.search._nets.classifier import classifier, require_positive
from kerastools.search._spaces import dropout


@dataclass(eq=False)
class DeepDense(keras_tuner.HyperModel):
    """HyperModel of deep dense classifiers, for keras-tuner.

    Each hidden layer is Dense → BatchNormalization → activation, the top `dropout_layers` of them
    followed by `kerastools.layers.Dropout`. Kernels are initialized for their activation and
    bounded by `kerastools.constraints.MaxNorm`. Searched are the dropout rate p, the optimizer
    (`sgd` or `adam`), its learning rate η, and γ (for `sgd`, Nesterov momentum) or β₁ and β₂ (for
    `adam`).

    Args:
        num_features: Number of input features.
        num_classes: Number of classes; labels are integers >= 0.
        depth: Number of hidden layers.
        units: Units of each hidden layer.
        activation: Activation of the hidden layers.
        dropout_layers: Number of hidden layers with dropout, from the top.
        max_norm: Maximum norm of the incoming weights of each hidden unit.
        clipnorm: Maximum gradient norm of each variable.
        seed: Integer that seeds kernels and dropout masks, the same for all trials; by default
            other ones in each trial.

    Raises:
        ValueError: If a number is not positive.

    Example:

    >>> hypermodel = DeepDense(num_features=64, num_classes=10, depth=4)
    >>> hp = keras_tuner.HyperParameters()
    >>> model = hypermodel.build(hp)
    >>> sorted(hp.values)
    ['1 - momentum', 'dropout', 'optimizer', 'sgd_learning_rate']
    >>> model.output_shape
    (None, 10)
    """

    num_features: int
    num_classes: int
    depth: int = 10
    units: int = 100
    activation: str = "elu"
    dropout_layers: int = 2
    max_norm: float = 3.0
    clipnorm: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__init__()
        require_positive(self, "num_features", "num_classes", "depth", "units")
        require_positive(self, "max_norm", "clipnorm")

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Returns a compiled model for the hyperparameters of one trial."""
        rate = dropout(hp, off=True)
        layers = [keras.Input((self.num_features,))]
        for i in range(1, self.depth + 1):
            layers.append(
                keras.layers.Dense(
                    self.units,
                    use_bias=False,
                    kernel_constraint=MaxNorm(self.max_norm),
                    name=f"hidden_{i}",
                )
            )
            layers.append(keras.layers.BatchNormalization(name=f"norm_{i}"))
            layers.append(keras.layers.Activation(self.activation, name=f"activation_{i}"))
            if i > self.depth - self.dropout_layers:
                layers.append(
                    Dropout(
                        rate, seed=None if self.seed is None else self.seed + i, name=f"dropout_{i}"
                    )
                )
        return classifier(hp, layers, self.num_classes, "deep_dense", self.seed, self.clipnorm)
