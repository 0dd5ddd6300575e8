"""Drawing all weights of a model anew, by the scheme that suits each layer."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.graph.activations import activation_name
from kerastools._core.graph.fans import kernel_axes, num_gates
from kerastools._core.graph.flow import PlacedLayer, flow_of, walk
from kerastools._core.table import format_table
from kerastools.calibration._spatial_shapes import spatial_shapes
from kerastools.initializers import stability
from kerastools.initializers._for_layer import check_scheme, for_layer
from kerastools.initializers._variance_scaling import VarianceScaling

# Smooth rectifiers, in which a deviation of the signal grows from layer to layer.
_UNSTABLE = ("gelu", "silu", "swish", "mish", "hard_silu")
_LARGEST_GROWTH = 2.0


def initialize(
    model: keras.Model,
    scheme: str = "auto",
    seed: int | None = None,
    verbose: bool = False,
    same_padding: bool = False,
) -> keras.Model:
    """Draws all weights of `model` anew, in place, by the scheme that suits each layer; returns it.

    Use it on a model that was built with Keras's defaults, before training: it chooses by the
    activation that really follows each layer, the layer's own or a separate one behind
    normalisation, dropout, pooling or a residual sum, and with the fans that the layer really has.

    | activation | scheme | variance |
    |---|---|---|
    | ReLU and its variants | He | 2 / fan_in |
    | SELU | LeCun | 1 / fan_in |
    | tanh, logistic, softmax, none, others | Glorot | 2 / (fan_in + fan_out) |

    Every variable gets a draw of its own; in Keras two layers that share a seeded initializer get
    the same numbers, and so do the query and key kernels of an attention layer. Recurrent kernels
    become orthogonal gate by gate. Biases, scales, moving statistics and embeddings start again
    from the layer's own initializers. Left as they are: layers with `trainable=False`, and
    variables that no initializer of their layer is named after, such as the statistics of an
    adapted `Normalization`.

    Weights that were trained before are lost. Nothing is changed unless every value could be drawn.

    Args:
        model: A built functional or Sequential model; nested models are entered, shared layers
            initialised once.
        scheme: `"auto"`, or a scheme of `kerastools.initializers.for_layer` for all kernels.
        seed: Integer that makes the draws repeatable; by default they are new each time.
        verbose: Whether to print what was done to each variable, as a table.
        same_padding: Whether to count the fans of convolutions with `padding="same"` without the
            weights that meet padding; it matters on maps of a few positions. Six
            depthwise-separable blocks without normalisation learn 8 by 8 digits most reliably
            with it and an optimizer with `global_clipnorm=1.0` (`benchmarks/gains.py`).

    Returns:
        `model`.

    Warns:
        UserWarning: If the model is deep, has no normalisation, and its activation has no stable
            gain (GELU, SiLU, Mish; see `kerastools.initializers.stability`): then `calibrate` it.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, its graph cannot be read, or the scheme is unknown.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(16, name="hidden"),
    ...     keras.layers.ReLU(),
    ...     keras.layers.Dense(1, name="output"),
    ... ])
    >>> model = initialize(model, seed=1, verbose=True)
    layer    weight   activation   initializer    fan_in   fan_out
    ────────────────────────────────────────────────────────────────
    hidden   kernel   relu         HeNormal       8        16
    hidden   bias     relu         Zeros
    output   kernel   linear       GlorotNormal   16       1
    output   bias     linear       Zeros
    """
    check_scheme(scheme, "initialize")
    placed = walk(model, "initialize")
    seeds = iter(np.random.SeedSequence(seed).spawn(sum(len(p.weights) for p in placed)))
    shapes = spatial_shapes(model) if same_padding else {}
    steps = [step for p in placed for step in _plan(p, scheme, seeds, shapes.get(id(p.layer)))]
    values = [step.draw() if step.draw else None for step in steps]
    for step, value in zip(steps, values, strict=True):
        if value is not None:
            step.variable.assign(value)
    if verbose:
        print(_table(steps))
    _warn_if_unstable(model, placed)
    return model


def _warn_if_unstable(model: Any, placed: list[PlacedLayer]) -> None:
    """Warns if a deviation of the signal is more than doubled over the depth of the model."""
    if flow_of(model, "initialize").normalised:
        return
    names = [activation_name(p.activation) for p in placed if kernel_axes(p.layer)]
    for name in dict.fromkeys(n for n in names if n in _UNSTABLE):
        growth = stability(name) ** names.count(name)
        if growth > _LARGEST_GROWTH:
            warnings.warn(
                f"{name} has no stable gain: over the {names.count(name)} layers of "
                f'"{model.name}" a deviation of the signal grows {growth:.2g} times. Call '
                "kerastools.calibration.calibrate(model, x) next, or put "
                "keras.layers.LayerNormalization() between.",
                stacklevel=3,
            )


@dataclass(frozen=True, eq=False)
class _Step:
    """What happens to one variable; it is kept where `draw` is `None`."""

    path: str
    variable: Any
    activation: str
    initializer: str
    fans: tuple[float, float] | None
    draw: Callable[[], Any] | None


def _plan(placed: PlacedLayer, scheme: str, seeds: Any, shape: Any) -> list[_Step]:
    """Returns the steps for one layer; takes one seed per variable, whatever becomes of it."""
    layer = placed.layer
    by_name = for_layer(layer, scheme, activation=placed.activation, spatial_shape=shape)
    activation = activation_name(placed.activation)
    steps = []
    for variable, sequence in zip(placed.weights, seeds, strict=False):
        seed = int(sequence.generate_state(1)[0] >> 1)
        shape = tuple(variable.shape)
        initializer = by_name.get(variable.name) or _own_initializer(layer, variable.name)
        fans = initializer.fans(shape) if isinstance(initializer, VarianceScaling) else None
        if initializer is None or not layer.trainable:
            steps.append(_Step(placed.path, variable, activation, "(kept)", None, None))
            continue
        initializer = _reseeded(initializer, seed)
        draw = _drawing(layer, variable, initializer)
        steps.append(_Step(placed.path, variable, activation, _name(initializer), fans, draw))
    return steps


def _name(initializer: Any) -> str:
    return getattr(initializer, "__name__", type(initializer).__name__)


def _own_initializer(layer: Any, name: str) -> Any:
    """Returns the initializer that the layer was given for its weight `name`, or `None`."""
    # Keras names them `bias_initializer`, but `recurrent_initializer` for `recurrent_kernel`.
    for attribute in (f"{name}_initializer", f"{name.removesuffix('_kernel')}_initializer"):
        initializer = getattr(layer, attribute, None)
        if initializer is not None:
            return keras.initializers.get(initializer)
    return None


def _reseeded(initializer: Any, seed: int) -> Any:
    """Returns a copy of `initializer` with another seed; itself where it takes none."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if "seed" not in config:
        return initializer
    return type(initializer).from_config({**config, "seed": seed})


def _drawing(layer: Any, variable: Any, initializer: Any) -> Callable[[], Any]:
    """Returns the function that draws the new value of `variable`."""
    shape, dtype = tuple(variable.shape), variable.dtype
    if variable.name == "bias" and getattr(layer, "unit_forget_bias", False):
        return lambda: _forget_gate_open(initializer, shape, dtype, num_gates(layer))
    return lambda: initializer(shape, dtype=dtype)


def _forget_gate_open(initializer: Any, shape: Any, dtype: Any, gates: int) -> Any:
    """Keras's bias of an LSTM: ones for the second gate, which forgets."""
    units = shape[0] // gates
    forget = np.arange(shape[0]) // units == 1
    return ops.where(forget, ops.ones(shape, dtype), initializer(shape, dtype=dtype))


def _table(steps: list[_Step]) -> str:
    rows = [
        (
            step.path,
            step.variable.name,
            step.activation,
            step.initializer,
            *(f"{fan:g}" if fan is not None else "" for fan in step.fans or (None, None)),
        )
        for step in steps
    ]
    return format_table(("layer", "weight", "activation", "initializer", "fan_in", "fan_out"), rows)
