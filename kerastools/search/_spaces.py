"""Search spaces of dropout rate, momentum, betas and learning rate.

Each function defines a hyperparameter on `hp` and returns its value, ready for a layer or an
optimizer. Momentum and betas are sampled as 1 − γ on a logarithmic scale: γ = 0.9 and 0.99 average
over 10 and 100 steps, a ratio like that of 2 and 20 steps for γ = 0.5 and 0.95.
"""

import keras_tuner

_DROPOUT_RANGES = {"dense": (0.1, 0.5), "recurrent": (0.2, 0.3), "convolutional": (0.4, 0.5)}


def dropout(
    hp: keras_tuner.HyperParameters, kind: str = "dense", name: str = "dropout", off: bool = False
) -> float:
    """Search space of a dropout rate p, the probability that a unit is dropped.

    Args:
        hp: The hyperparameters of the trial.
        kind: The kind of net: `"dense"` (0.1 to 0.5), `"recurrent"` (0.2 to 0.3) or
            `"convolutional"` (0.4 to 0.5).
        name: The hyperparameter's name.
        off: Whether the range includes 0, for nets that may underfit.

    Returns:
        The rate, in steps of 0.05 (0.02 for recurrent and convolutional nets).

    Raises:
        ValueError: If `kind` is not one of these.

    Example:

    >>> hp = keras_tuner.HyperParameters()
    >>> dropout(hp)
    0.1
    >>> dropout(hp, kind="convolutional", name="top_dropout")
    0.4

    Reference: Srivastava et al., "Dropout: a simple way to prevent neural networks from
    overfitting", JMLR 2014.
    """
    if kind not in _DROPOUT_RANGES:
        raise ValueError(
            f"dropout needs kind in {sorted(_DROPOUT_RANGES)}. Received kind={kind!r}."
        )
    low, high = _DROPOUT_RANGES[kind]
    step = 0.05 if kind == "dense" else 0.02
    # keras-tuner rounds the number of steps down, and (0.3 - 0.2) / 0.02 is 4.999999999999999.
    return hp.Float(name, 0.0 if off else low, high + 1e-9, step=step)


def momentum(
    hp: keras_tuner.HyperParameters,
    low: float = 0.5,
    high: float = 0.99,
    name: str = "momentum",
) -> float:
    """Search space of a momentum γ, sampled as 1 − γ on a logarithmic scale.

    Args:
        hp: The hyperparameters of the trial.
        low: The smallest γ.
        high: The largest γ, below 1.
        name: The hyperparameter is named `1 - {name}`.

    Returns:
        γ, in [low, high]; 0.9 by default.

    Raises:
        ValueError: Unless 0 ≤ low < high < 1.

    Example:

    >>> momentum(keras_tuner.HyperParameters())
    0.9

    Reference: Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and
    momentum in deep learning", ICML 2013.
    """
    return _decay(hp, name, low, high, default=0.9)


def betas(
    hp: keras_tuner.HyperParameters,
    beta_1: tuple[float, float] = (0.5, 0.98),
    beta_2: tuple[float, float] = (0.9, 0.9999),
) -> tuple[float, float]:
    """Search space of Adam's β₁ and β₂, each sampled as 1 − β on a logarithmic scale.

    Args:
        hp: The hyperparameters of the trial.
        beta_1: Smallest and largest β₁, below 1.
        beta_2: Smallest and largest β₂, below 1.

    Returns:
        `(β₁, β₂)`; `(0.9, 0.999)` by default.

    Raises:
        ValueError: Unless 0 ≤ low < high < 1 for both.

    Example:

    >>> betas(keras_tuner.HyperParameters())
    (0.9, 0.999)

    Reference: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    """
    return (
        _decay(hp, "beta_1", *beta_1, default=0.9),
        _decay(hp, "beta_2", *beta_2, default=0.999),
    )


def learning_rate(
    hp: keras_tuner.HyperParameters,
    low: float = 1e-4,
    high: float = 1e-1,
    name: str = "learning_rate",
) -> float:
    """Search space of a learning rate η on a logarithmic scale.

    Args:
        hp: The hyperparameters of the trial.
        low: The smallest η, above 0.
        high: The largest η.
        name: The hyperparameter's name.

    Returns:
        η, in [low, high].

    Raises:
        ValueError: Unless 0 < low < high.

    Example:

    >>> learning_rate(keras_tuner.HyperParameters(), low=1e-3)
    0.001
    """
    if not 0 < low < high:
        raise ValueError(f"learning_rate needs 0 < low < high. Received low={low}, high={high}.")
    return hp.Float(name, low, high, sampling="log")


def _decay(
    hp: keras_tuner.HyperParameters, name: str, low: float, high: float, default: float
) -> float:
    if not 0 <= low < high < 1:
        raise ValueError(f"{name} needs 0 <= low < high < 1. Received low={low}, high={high}.")
    default = min(max(default, low), high)
    complement = hp.Float(
        f"1 - {name}",
        round(1 - high, 10),
        round(1 - low, 10),
        sampling="log",
        default=round(1 - default, 10),
    )
    # In a conditional scope that is not active, keras-tuner returns None.
    return None if complement is None else round(1 - complement, 10)  # type: ignore[return-value]
