"""Drawing all weights of a model anew, as its author chose where that lets it learn."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.graph.activations import activation_name
from kerastools._core.graph.fans import kernel_axes, num_gates
from kerastools._core.graph.flow import Link, PlacedLayer, flow_of, links_of, walk
from kerastools._core.table import format_table
from kerastools.calibration._spatial_shapes import spatial_shapes
from kerastools.initializers import stability
from kerastools.initializers._for_layer import check_scheme, for_layer, with_right_fans
from kerastools.initializers._variance_scaling import VarianceScaling

# Smooth rectifiers, in which a deviation of the signal grows from layer to layer.
_UNSTABLE = ("gelu", "silu", "swish", "mish", "hard_silu")
_LARGEST_GROWTH = 2.0
_BY_ACTIVATION = "by_activation"
# Of the variance of the signal after a kernel, over what the scheme that suits it gives.
_BOUNDS = (1 / 32, 32.0)
# Below it, the ε of a normalization outweighs what it normalizes.
_LEAST_NORMALISED = 1e-3


def initialize(
    model: keras.Model,
    scheme: str = "auto",
    seed: int | None = None,
    verbose: bool = False,
    same_padding: bool = False,
) -> keras.Model:
    """Draws all weights of `model` anew, in place, so that it can learn; returns it.

    Use it on a model that was built, before training. With `scheme="auto"` it draws by the
    initializers that the model's author chose, with the fans that each layer really has, and
    corrects what would keep the model from learning:

    - The fans of depthwise, separable, grouped, strided and transposed convolutions and of gates
      are counted right, and recurrent kernels are orthogonal gate by gate. Kernels whose signal is
      normalized next are left as Keras draws them: larger ones would only learn more slowly.
    - Kernels that are alike in all units (zeros among them), not finite, or of a variance 32 times
      too large get the scheme of the table.
    - So do all kernels of a chain along which the variance of the signal would grow or shrink more
      than 32 times.

    A chain is kernels with no normalization, sum or product between. Small kernels and zeros in the
    last layer, in gates and at the end of residual branches stay as their author set them, and so
    do biases. The scheme is chosen by the activation that really follows each layer, the layer's
    own or a separate one behind normalization, dropout, pooling or a residual sum:

    | activation | scheme | variance |
    |---|---|---|
    | ReLU and its variants | He | 2 / fan_in |
    | SELU | LeCun | 1 / fan_in |
    | tanh, logistic, softmax, none, others | Glorot | 2 / (fan_in + fan_out) |

    Every variable gets a draw of its own; in Keras two layers that share a seeded initializer get
    the same numbers, and so do the query and key kernels of an attention layer. Biases, scales,
    moving statistics and embeddings start again from the layer's own initializers. Left as they
    are: layers with `trainable=False`, and variables that no initializer of their layer is named
    after, such as the statistics of an adapted `Normalization`.

    Weights that were trained before are lost. Nothing is changed unless every value could be drawn.

    Args:
        model: A built functional or Sequential model; nested models are entered, shared layers
            initialised once.
        scheme: `"auto"`; `"by_activation"` for the second table in all kernels, whatever their
            author chose; or a scheme of `kerastools.initializers.for_layer` for all kernels.
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
    >>> model = initialize(model, "by_activation", seed=1, verbose=True)
    layer    weight   activation   initializer    fan_in   fan_out
    ────────────────────────────────────────────────────────────────
    hidden   kernel   relu         HeNormal       8        16
    hidden   bias     relu         Zeros
    output   kernel   linear       GlorotNormal   16       1
    output   bias     linear       Zeros
    """
    if scheme != _BY_ACTIVATION:
        check_scheme(scheme, "initialize")
    placed = walk(model, "initialize")
    seeds = iter(np.random.SeedSequence(seed).spawn(sum(len(p.weights) for p in placed)))
    shapes = spatial_shapes(model) if same_padding else {}
    links = links_of(model, "initialize") if scheme == "auto" else {}
    steps = [
        step
        for p in placed
        for step in _plan(p, scheme, seeds, shapes.get(id(p.layer)), links.get(id(p.layer)))
    ]
    if scheme == "auto":
        _correct(steps, links)
    drawn = [(step.variable, step.value()) for step in steps if step.initializer is not None]
    for variable, value in drawn:
        variable.assign(value)
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


@dataclass(eq=False)
class _Step:
    """What happens to one variable.

    Attributes:
        path: Of its layer.
        layer: Its layer.
        variable: The variable.
        activation: The name of the activation that follows its layer.
        initializer: What draws its new value; `None` where it is kept.
        suited: The scheme that suits the activation, if it is a kernel.
        seed: Of the draw.
    """

    path: str
    layer: Any
    variable: Any
    activation: str
    initializer: Any
    suited: Any
    seed: int

    def value(self) -> Any:
        """Returns what is drawn for the variable."""
        initializer = _reseeded(self.initializer, self.seed)
        shape, dtype = tuple(self.variable.shape), self.variable.dtype
        if self.variable.name == "bias" and getattr(self.layer, "unit_forget_bias", False):
            return _forget_gate_open(initializer, shape, dtype, num_gates(self.layer))
        return initializer(shape, dtype=dtype)

    def power(self) -> float:
        """Returns the variance of the weights over that of the scheme that suits the layer.

        0 if all units would compute the same, infinite if a weight is not finite.
        """
        shape = tuple(self.variable.shape)
        if not isinstance(self.suited, VarianceScaling):
            return 1.0
        if isinstance(self.initializer, VarianceScaling):
            return self.initializer.variance(shape) / self.suited.variance(shape)
        value = ops.convert_to_numpy(self.value()).astype("float64")
        if not np.isfinite(value).all():
            return math.inf
        along = self.suited.out_axis or (-1,)
        alike = np.ptp(value, axis=along).max() == 0 and math.prod(shape[a] for a in along) > 1
        return 0.0 if alike else float(np.square(value).mean()) / self.suited.variance(shape)


def _plan(
    placed: PlacedLayer, scheme: str, seeds: Any, shape: Any, link: Link | None
) -> list[_Step]:
    """Returns the steps for one layer; takes one seed per variable, whatever becomes of it."""
    layer = placed.layer
    named = "auto" if scheme == _BY_ACTIVATION else scheme
    by_name = for_layer(layer, named, activation=placed.activation, spatial_shape=shape)
    activation = activation_name(placed.activation)
    steps = []
    for variable, sequence in zip(placed.weights, seeds, strict=False):
        seed = int(sequence.generate_state(1)[0] >> 1)
        suited = by_name.get(variable.name)
        initializer = _own_initializer(layer, variable.name)
        if scheme == "auto" and initializer is not None:
            # Normalized, the signal is the same, and larger weights would only learn more slowly.
            if link is None or link.joins or not link.normalised:
                initializer = with_right_fans(initializer, layer, variable.name, shape)
        elif suited is not None:
            initializer = suited
        if not layer.trainable:
            initializer = None
        steps.append(_Step(placed.path, layer, variable, activation, initializer, suited, seed))
    return steps


def _correct(steps: list[_Step], links: dict[int, Link]) -> None:
    """Gives kernels the scheme that suits them where the model's own would keep it from training.

    That is a kernel that is alone dead, alike in all units, not finite or far too large, and all
    kernels of a chain along which the variance of the signal leaves `_BOUNDS`. A small kernel whose
    output joins another signal, or is the model's, is one that its author wanted small.
    """
    kernels: dict[int, list[_Step]] = {}
    for step in steps:
        if step.suited is not None and step.initializer is not None:
            kernels.setdefault(id(step.layer), []).append(step)
    chains: dict[int, list[int]] = {}
    growths: dict[int, float] = {}
    for key, its_steps in kernels.items():
        link = links.get(key, Link(joins=True))
        power = math.prod(step.power() for step in its_steps)
        if power > _BOUNDS[1] or (power == 0 and not link.joins):
            _suit(its_steps)
            power = 1.0
        before = [b for b in link.before if b in growths]
        # Where several signals are joined side by side, the strongest is not lost.
        growths[key] = power * max((growths[b] for b in before), default=1.0)
        chain = list(dict.fromkeys([m for b in before for m in chains[b]] + [key]))
        chains.update(dict.fromkeys(chain, chain))
    for chain in {id(chain): chain for chain in chains.values()}.values():
        if any(_is_lost(growths[key], links.get(key, Link(joins=True))) for key in chain):
            _suit([step for key in chain for step in kernels[key] if growths[key] > 0])


def _is_lost(growth: float, link: Link) -> bool:
    """Whether a signal whose variance is `growth` times what it should be is too weak or strong."""
    least = _BOUNDS[0] if not link.normalised else _LEAST_NORMALISED
    return not link.joins and not least <= growth <= _BOUNDS[1]


def _suit(steps: list[_Step]) -> None:
    for step in steps:
        step.initializer = step.suited


def _name(initializer: Any) -> str:
    return getattr(initializer, "__name__", type(initializer).__name__)


def _own_initializer(layer: Any, name: str) -> Any:
    """Returns the initializer that the layer was given for its weight `name`, or `None`."""
    # Keras names them `bias_initializer`, but `recurrent_initializer` for `recurrent_kernel`, and
    # `depthwise_initializer` for the one `kernel` of a depthwise convolution.
    names = [name, name.removesuffix("_kernel"), *["depthwise"] * (name == "kernel")]
    for attribute in (f"{n}_initializer" for n in names):
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


def _forget_gate_open(initializer: Any, shape: Any, dtype: Any, gates: int) -> Any:
    """Keras's bias of an LSTM: ones for the second gate, which forgets."""
    units = shape[0] // gates
    forget = np.arange(shape[0]) // units == 1
    return ops.where(forget, ops.ones(shape, dtype), initializer(shape, dtype=dtype))


def _table(steps: list[_Step]) -> str:
    rows = []
    for step in steps:
        fans: Any = (None, None)
        if isinstance(step.initializer, VarianceScaling):
            fans = step.initializer.fans(tuple(step.variable.shape))
        name = "(kept)" if step.initializer is None else _name(step.initializer)
        cells = ("" if fan is None else f"{fan:g}" for fan in fans)
        rows.append((step.path, step.variable.name, step.activation, name, *cells))
    return format_table(("layer", "weight", "activation", "initializer", "fan_in", "fan_out"), rows)
