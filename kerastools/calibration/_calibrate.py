"""Layer-sequential unit variance: scaling each kernel by what it does to real data."""

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.batches import gather, is_dataset
from kerastools._core.checks import require_finite
from kerastools._core.graph.calls import Call, as_recorded, read_graph, replay
from kerastools._core.graph.fans import kernel_axes, num_gates
from kerastools._core.graph.kinds import unwrapped
from kerastools._core.table import format_table

# A bias is not scaled along with its kernel: then one scaling is not enough.
_MOST_SCALINGS = 10
# Of a dataset.
_MOST_ROWS = 512


def calibrate(
    model: keras.Model,
    x: Any,
    tolerance: float = 0.01,
    dry_run: bool = False,
    verbose: bool = False,
) -> keras.Model:
    """Scales `model`'s kernels, in place, until each layer's output has variance 1; returns it.

    Use it where no formula holds: GELU, SiLU and Mish have no stable gain in deep nets, sums of
    branches grow, padding shrinks. Layer by layer, from input to output, the data is run through
    the layers that were calibrated already, and the layer's kernel W is divided by the standard
    deviation of what it makes, before the activation, over rows and units:

        W ← W / √Var[z],   z = W ∗ input + b,   until |Var[z] − 1| ≤ tolerance

    Call `initialize(model)` first: the directions of the weights stay as they are. Calibrated are
    `Dense`, `EinsumDense` and all convolutions (of a separable one the pointwise half), in nested
    models and inside `TimeDistributed` too, a shared layer where it is first called. Other layers,
    frozen layers and layers that the model returns are left as they are. Normalisation uses the
    batch's statistics and dropout drops, as in training, without moving a statistic or a seed.

    Nothing is changed before all layers are done.

    Args:
        model: A built functional or Sequential model.
        x: A few hundred rows of training inputs, scaled as in training: an array, or a list or
            dictionary of arrays, or a dataset, whose first 512 are taken. They are run as one
            batch.
        tolerance: How far each variance may be from 1.
        dry_run: Whether to leave the model as it is; use it with `verbose`.
        verbose: Whether to show progress, and then each layer's variance and scale as a table.

    Returns:
        `model`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, its graph cannot be read, `x` holds NaN, or a layer's output
            is constant or not finite.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> layers = [keras.layers.Dense(64, activation="silu") for _ in range(30)]
    >>> model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(1)])
    >>> x = np.random.default_rng(1).normal(size=(256, 64)).astype("float32")
    >>> float(keras.ops.var(model(x))) < 1e-12
    True
    >>> model = calibrate(model, x)
    >>> float(keras.ops.var(model(x))) > 1e-3
    True

    Reference: Mishkin and Matas, "All you need is a good init", ICLR 2016.
    """
    graph = read_graph(model, "calibrate")
    x = gather(x, "calibrate", _MOST_ROWS)[0] if is_dataset(x) else x
    x = tree.map_structure(lambda a: require_finite("x", a, "calibrate"), x)
    if not tolerance > 0:
        raise ValueError(f"calibrate needs tolerance > 0. Received tolerance={tolerance}.")
    returned = {id(producer.operation) for t in graph.outputs if (producer := graph.producer(t))}
    progress = keras.utils.Progbar(len(graph.calls), unit_name="call") if verbose else None
    done: dict[int, _Scaling] = {}

    def scaled(call: Call, args: Any, kwargs: Any) -> Any:
        layer = _calibrated_layer(call.operation)
        if layer is not None and id(layer) not in done and id(call.operation) not in returned:
            done[id(layer)] = _scale(call, layer, args, kwargs, tolerance)
        if progress:
            progress.add(0 if "/" in call.path else 1)
        return as_recorded(call, args, kwargs)

    # Inside the scope an assignment is seen by the next reader and by nobody outside.
    with keras.StatelessScope() as scope:
        replay(graph, x, scaled, training=True)
    if not dry_run:
        for scaling in done.values():
            if (value := scope.get_current_value(scaling.kernel)) is not None:
                scaling.kernel.assign(value)
    if verbose:
        print(_table(list(done.values())))
    return model


@dataclass(frozen=True, eq=False)
class _Scaling:
    """What was done to one kernel."""

    path: str
    kernel: Any
    before: float
    scale: float
    after: float


def _calibrated_layer(operation: Any) -> Any:
    """Returns the layer whose kernel makes the output of `operation`, or `None`."""
    layer = unwrapped(operation)
    if not isinstance(layer, keras.Layer) or not layer.trainable or num_gates(layer):
        return None
    kernels = kernel_axes(layer)
    # An activation that is a layer may have weights of its own and cannot be put aside.
    if not kernels or "embeddings" in kernels or isinstance(layer.activation, keras.Layer):
        return None
    return layer


def _scale(call: Call, layer: Any, args: Any, kwargs: Any, tolerance: float) -> _Scaling:
    """Scales the layer's last kernel until its output, before the activation, has variance 1."""
    kernel = getattr(layer, list(kernel_axes(layer))[-1])
    total = 1.0
    variances = []
    for _ in range(_MOST_SCALINGS):
        variances.append(_variance(call, layer, args, kwargs))
        if abs(variances[-1] - 1) <= tolerance:
            break
        factor = 1 / math.sqrt(variances[-1])
        kernel.assign(ops.convert_to_tensor(kernel) * factor)
        total *= factor
    else:
        variances.append(_variance(call, layer, args, kwargs))
    return _Scaling(call.path, kernel, variances[0], total, variances[-1])


def _variance(call: Call, layer: Any, args: Any, kwargs: Any) -> float:
    """Returns the variance of what the layer makes before its activation, over all elements."""
    activation = layer.activation
    layer.activation = keras.activations.linear
    try:
        outputs = tree.flatten(as_recorded(call, args, kwargs))[0]
    finally:
        layer.activation = activation
    outputs = ops.convert_to_numpy(ops.cast(outputs, "float32")).astype("float64")
    variance = float(np.var(outputs))
    if not (math.isfinite(variance) and variance > 0):
        raise ValueError(
            f'calibrate needs outputs that vary. Received variance {variance} from "{call.path}". '
            "Call kerastools.calibration.initialize(model) first, and look at the inputs: rows "
            "that are all alike, or of a huge scale, give no variance to go by. The model was not "
            "changed."
        )
    return variance


def _table(scalings: list[_Scaling]) -> str:
    rows = [(s.path, s.before, s.scale, s.after) for s in scalings]
    return format_table(("layer", "variance before", "kernel scaled by", "variance after"), rows)
