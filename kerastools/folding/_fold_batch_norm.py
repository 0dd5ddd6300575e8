"""Removing batch normalisation from a trained model without changing what it computes."""

from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Call, layers_in_training, read_graph, sublayers
from kerastools._core.graph.kinds import is_kind, kind_of
from kerastools._core.graph.rebuild import layer_from_config, open_layers, rebuild
from kerastools._core.sample_inputs import sample_inputs
from kerastools.folding._plan import Plan
from kerastools.folding._report import FoldReport

_NAME = "fold_batch_norm"
_TINY = np.finfo("float32").tiny


def fold_batch_norm(
    model: keras.Model, return_report: bool = False, sample: Any = None
) -> keras.Model | tuple[keras.Model, FoldReport]:
    """Returns a new model that computes the same in inference with fewer batch normalisations.

    In inference a batch normalisation is z = a⊗x + b with a = γ/√(σ²+ε) and b = β − a⊗μ. Linear
    layers beside it can compute the same by other weights. Where x = Wy + c goes nowhere else:

        W ← a ⊗ W (over the outputs),   c ← a ⊗ c + b

    and where z goes only into linear layers Wz + c, which is what `Dense(activation="relu")`
    followed by `BatchNormalization` needs:

        W ← W ⊗ a (over the inputs),   c ← c + Wb

    Use it on a trained model before serving. Keras computes a batch normalisation as some seven
    operations that read and write the whole tensor, and few runtimes remove all of them.

    Linear layers are `Dense` (of any rank), `EinsumDense`, `Conv`, `DepthwiseConv`,
    `SeparableConv` and `ConvTranspose` of any dimension, with any stride, dilation, groups and data
    format, with or without bias. Between them and the batch normalisation may stand what does
    nothing in inference (dropout, noise, `Identity`, a linear `Activation`, another batch
    normalisation that goes), `Flatten`, `Reshape`, average pooling, nearest or bilinear upsampling,
    cropping, max pooling where every scale is positive, and zero padding where the shift is zero.
    Backwards it goes through `Concatenate` and `Add` into every branch. `Rescaling` and
    `Normalization` at the input go the same way. Nested models are folded inside and, where they
    are called once, from one side of their border to the other.

    Where zero padding after it would not see the shift, only the scale goes forward, and a
    `Rescaling` of the same name adds the rest: z = a ⊗ (x + b/a).

    A layer of your own that holds a batch normalization is folded inside, where its `call` in
    inference is proved to do no more than call layers and `keras.ops` functions; it then comes back
    as a nested model of its name.

    All others are kept, as exact as they were, and the report says why: a kernel that is called
    twice, an output that is used elsewhere, an activation in between. Weights are computed in
    float64 and rounded once. The argument is left alone: the result has layers and weights of its
    own.

    Layers that stay keep their name, dtype, trainable flags and regularizers. The layer that takes
    a batch normalisation in becomes a fresh plain layer of its class: without constraint, which
    bounded the kernel before the scale went into it, and without its initializer. So the saved
    result needs kerastools only if a layer that stays is of kerastools. A batch normalisation whose
    output the model returns leaves an `Identity` of its name, so that `model.output_names` stays.
    Functional subclasses come back as plain functional models. The result is not compiled; do not
    train it further as a replacement of the original, because normalisation by batch is gone.

    Args:
        model: A built functional or Sequential model.
        return_report: Whether to return a `FoldReport` too.
        sample: Inputs of a few rows, as the model takes them, on which the report compares the
            outputs of both models; `"random"` for normal numbers, and 0 and 1 for integers. By
            default nothing is computed.

    Returns:
        The new model, or `(model, report)` with `return_report=True`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If `model` is not built or is subclassed, or one of its layers cannot be made
            again from its `get_config()`, or `sample` does not fit the model.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(4, use_bias=False, name="dense"),
    ...     keras.layers.BatchNormalization(name="norm"),
    ...     keras.layers.ReLU(),
    ... ], name="net")
    >>> folded, report = fold_batch_norm(model, return_report=True)
    >>> print(report)
    Model "net": 1 of 1 batch norms folded, 3 layers became 2, 48 parameters 36
    <BLANKLINE>
    layer   outcome
    ───────────────────────────
    norm    folded into dense

    Reference: Ioffe and Szegedy, "Batch normalization: accelerating deep network training by
    reducing internal covariate shift", ICML 2015; Jacob et al., "Quantization and training of
    neural networks for efficient integer-arithmetic-only inference", CVPR 2018, section 3.2.
    """
    graph = read_graph(model, _NAME)
    inputs = None
    if sample is not None:
        given = None if isinstance(sample, str) and sample == "random" else sample
        inputs = sample_inputs(graph, given, _NAME)
    in_training = layers_in_training(graph)
    plan = Plan(open_layers(model, lambda layer: _is_block(layer, in_training)), in_training)
    folded = _folded(plan)
    if not return_report:
        return folded
    return folded, FoldReport(
        model=model.name,
        outcomes=tuple(plan.outcomes.values()),
        num_layers=(_num_layers(model), _num_layers(folded)),
        num_parameters=(model.count_params(), folded.count_params()),
        largest_difference=None if inputs is None else _difference(model, folded, inputs),
    )


def _is_block(layer: Any, in_training: set[int]) -> bool:
    """Whether `layer`, of a class of the user's own, holds a batch normalization in inference."""
    parts = sublayers(layer)
    return (
        kind_of(layer).name == "unknown"
        and any(is_kind(part, "batch_normalization") for part in parts[1:])
        and in_training.isdisjoint(map(id, parts))
    )


def _folded(plan: Plan) -> Any:
    """Returns the new model that `plan` describes; nothing of the old one is changed."""
    twins: dict[int, Any] = {}
    stand_ins: dict[int, Any] = {}

    def change(path: str, layer: Any) -> tuple[Any, bool] | None:
        weights = plan.weights.get(id(layer))
        if weights is None:
            return None
        twins[id(layer)] = layer_from_config(layer, weights.config_changes(), _NAME)
        return twins[id(layer)], False

    def connect(call: Call, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        old = call.operation
        if call in plan.shifts:
            common = {"name": old.name, "dtype": old.dtype_policy.name}
            return keras.layers.Rescaling(1.0, plan.shifts[call], **common)(args[0])
        if call not in plan.removed:
            return layer(*args, **kwargs)
        if call not in plan.returned:
            return args[0]
        if id(old) not in stand_ins:
            # The name of an output stays, unless the layer stays too, for another call.
            name = f"{old.name}_folded" if plan.stays(old) else old.name
            stand_ins[id(old)] = keras.layers.Identity(name=name, dtype=old.dtype_policy.name)
        return stand_ins[id(old)](args[0])

    folded = rebuild(plan.model, _NAME, change, connect)
    for key, layer in twins.items():
        plan.weights[key].assign_to(layer)
    return folded


def _difference(model: Any, folded: Any, inputs: Any) -> float:
    """Returns max |y − y'| / max |y| of the worst output."""
    pairs = zip(_outputs(model, inputs), _outputs(folded, inputs), strict=True)
    return max(float(np.abs(y - z).max() / max(np.abs(y).max(), _TINY)) for y, z in pairs)


def _outputs(model: Any, inputs: Any) -> list[np.ndarray]:
    flat = keras.tree.flatten(model(inputs, training=False))
    return [keras.ops.convert_to_numpy(y).astype("float64") for y in flat]


def _num_layers(model: Any) -> int:
    leaves = [layer for layer in sublayers(model) if not isinstance(layer, keras.Model)]
    return sum(not is_kind(layer, "input") for layer in leaves)
