"""The two groupings that papers use, built for a model."""

from typing import Any

import keras

from kerastools._core.checks import require_built
from kerastools.optimizers._param_group import ParamGroup


def layer_decay_groups(
    model: Any, decay: float = 0.75, min_multiplier: float = 0.0
) -> list[ParamGroup]:
    """Returns groups that let each layer learn more slowly than the one above it.

    For fine-tuning: lower layers hold what is general and shall move least. Counted from the top,
    layer i has the learning-rate multiplier

        max(decayⁱ, min_multiplier),  i = 0, 1, 2, …

    Args:
        model: A built model. Layers without weights are not counted; a nested model counts layer by
            layer.
        decay: What the rate falls by from layer to layer, in (0, 1]; 0.65 to 0.9 is usual.
        min_multiplier: The least multiplier, in [0, 1].

    Returns:
        One `ParamGroup` for each layer with weights, the lowest first.

    Raises:
        ValueError: If `model` is not built, has no weights, or a number is outside its interval.

    Example:

    >>> from kerastools.optimizers import Adam
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    >>> groups = layer_decay_groups(model, 0.5)
    >>> [group.numbers["lr_multiplier"] for group in groups]
    [0.5, 1.0]
    >>> model.compile(Adam(1e-3, param_groups=groups), "mse")

    Reference: Bao, Dong, Piao and Wei, "BEiT: BERT pre-training of image transformers", ICLR 2022.
    """
    require_built(model, "layer_decay_groups")
    if not 0 < decay <= 1 or not 0 <= min_multiplier <= 1:
        raise ValueError(
            "layer_decay_groups needs decay in (0, 1] and min_multiplier in [0, 1]. Received "
            f"decay={decay!r}, min_multiplier={min_multiplier!r}."
        )
    layers = _layers_with_weights(model)
    if not layers:
        raise ValueError(f'layer_decay_groups needs layers with weights; "{model.name}" has none.')
    top = len(layers) - 1
    return [
        ParamGroup(layer, lr_multiplier=max(decay ** (top - i), min_multiplier))
        for i, layer in enumerate(layers)
    ]


def no_decay_groups(model: Any) -> list[ParamGroup]:
    """Returns a group that spares biases, normalisations and other vectors from weight decay.

    Decay regularises what multiplies the signal. A bias does not, and the scale of a normalisation
    sets the size of a signal that nothing else sets; most recipes spare both.

    Args:
        model: A built model.

    Returns:
        One `ParamGroup` with `weight_decay=0`, or none if there is no such variable.

    Raises:
        ValueError: If `model` is not built.

    Example:

    >>> from kerastools.optimizers import Adam
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> groups = no_decay_groups(model)
    >>> groups[0].matches(model.layers[0].bias), groups[0].matches(model.layers[0].kernel)
    (True, False)
    >>> model.compile(Adam(1e-3, weight_decay=0.1, param_groups=groups), "mse")

    Reference: He, Zhang, Zhang, Zhang, Xie and Li, "Bag of tricks for image classification with
    convolutional neural networks", CVPR 2019.
    """
    require_built(model, "no_decay_groups")
    group = ParamGroup(_is_vector, weight_decay=0.0)
    return [group] if any(group.matches(v) for v in model.trainable_variables) else []


@keras.saving.register_keras_serializable("kerastools", "is_vector")
def _is_vector(variable: Any) -> bool:
    return len(variable.shape) <= 1


def _layers_with_weights(model: Any) -> list[Any]:
    """Returns the innermost layers of a model, nested models taken apart, in the model's order."""
    found: dict[int, Any] = {}
    for layer in model.layers:
        inner = _layers_with_weights(layer) if isinstance(layer, keras.Model) else [layer]
        found |= {id(one): one for one in inner if one.weights}
    return list(found.values())
