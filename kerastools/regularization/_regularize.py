"""Penalties, max-norm and dropout for a model that is already built."""

from typing import Any

import keras

from kerastools import layers
from kerastools._core.checks import require_at_least
from kerastools._core.graph.activations import activation_name, own_activation
from kerastools._core.graph.calls import Call, Graph, read_graph
from kerastools._core.graph.fans import is_kernel
from kerastools._core.graph.kinds import is_kind
from kerastools._core.graph.rebuild import rebuild
from kerastools._core.replicas import in_strategy_scope
from kerastools.regularization._config import penalised

_NAME = "regularize"


@in_strategy_scope
def regularize(
    model: keras.Model,
    l1: float = 0.0,
    l2: float = 0.0,
    max_norm: float | None = None,
    dropout: float = 0.0,
    top_layers: int = 3,
) -> keras.Model:
    """Returns a copy of a model with L1 and L2 penalties, max-norm constraints and dropout.

    Use it on a model that has none of these: a pretrained one of `keras.applications`, or a layer
    in the middle of which `layer.kernel_regularizer = ...` would do nothing, since Keras reads it
    when the layer is built. In inference the new model computes the same. It is not compiled, its
    argument is left alone, and `save` and `load_model` keep all that was added.

        J + l1 · Σ|w| + l2 · Σw²   over the kernels, embeddings, biases and scales excepted
        ‖w‖₂ ≤ max_norm            for the weights w of each unit, after each update
        dropout                    of the units that feed each of the top layers

    Dropped are the inputs of the last `top_layers` layers with kernels, the output layer among
    them, by layers of `kerastools.layers`, whose rate is mutable: spatial dropout before a
    convolution, `AlphaDropout` behind SELU, `Dropout` elsewhere. The model's inputs and outputs are
    never dropped, and a layer that has a dropout before it already gets no second one.

    Args:
        model: A built functional or Sequential model; nested models are entered.
        l1: λ of the absolute values; 0 for none. Usual: 1e-6 to 1e-4.
        l2: λ of the squares, as in `keras.regularizers.L2` without the factor ½. Usual: 1e-5 to
            1e-3. Penalties that a layer had before are replaced if either is given.
        max_norm: r, in units of the weights; `None` for none. Usual: 1 to 4. A constraint that a
            kernel had before is replaced. Embeddings are bounded by row.
        dropout: Probability that a unit is dropped, in [0, 1); 0 for none. Usual: 0.1 to 0.5,
            in convolutional nets 0.4 to 0.5.
        top_layers: In front of how many layers, counted from the output, units are dropped.

    Returns:
        A functional model, or a Sequential one if `model` is.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built or its graph cannot be read, an argument is out of range or
            nothing is asked for, or a layer cannot be made again from its configuration.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(16, activation="relu"),
    ...     keras.layers.Dense(16, activation="relu"),
    ...     keras.layers.Dense(3, activation="softmax"),
    ... ])
    >>> tamed = regularize(model, l2=1e-4, max_norm=2.0, dropout=0.3, top_layers=1)
    >>> [type(layer).__name__ for layer in tamed.layers]
    ['Dense', 'Dense', 'Dropout', 'Dense']
    >>> len(model.losses), len(tamed.losses)
    (0, 3)

    Reference: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way
    to prevent neural networks from overfitting", JMLR 2014.
    """
    graph = read_graph(model, _NAME)
    _check(l1, l2, max_norm, dropout, top_layers)
    dropped = _top_calls(graph, top_layers) if dropout else {}

    def change(path: str, layer: Any) -> tuple[Any, bool] | None:
        config = penalised(layer, l1, l2, max_norm)
        return None if config is None else (type(layer).from_config(config), True)

    inserted: dict[int, Any] = {}

    def connect(call: Call, layer: Any, args: Any, kwargs: Any) -> Any:
        if source := dropped.get(call):
            if id(layer) not in inserted:  # One for all calls of a shared layer.
                inserted[id(layer)] = _dropout_for(call, source, dropout)
            args = (inserted[id(layer)](args[0]), *args[1:])
        return layer(*args, **kwargs)

    return rebuild(model, _NAME, change, connect)


def _check(l1: float, l2: float, max_norm: float | None, dropout: float, top_layers: int) -> None:
    if not (l1 >= 0 and l2 >= 0):
        raise ValueError(f"{_NAME} needs l1 and l2 of at least 0. Received l1={l1}, l2={l2}.")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"{_NAME} needs max_norm > 0 or None. Received max_norm={max_norm}.")
    if not 0 <= dropout < 1:
        raise ValueError(
            f"{_NAME} needs a dropout rate in [0, 1). Received dropout={dropout}. For 30 % pass "
            "0.3."
        )
    require_at_least(1, _NAME, top_layers=top_layers)
    if not (l1 or l2 or max_norm or dropout):
        raise ValueError(f"{_NAME} received nothing to add. Pass l1, l2, max_norm or dropout.")


def _top_calls(graph: Graph, top_layers: int) -> dict[Call, str]:
    """Returns, for the last calls with kernels, the kind of what feeds them."""
    graph = graph.entered()
    kernel_calls = [
        call
        for call in graph.calls
        if len(call.data) == 1 and any(map(is_kernel, getattr(call.operation, "weights", ())))
    ]
    kinds = {call: _source(graph, call.data[0]) for call in kernel_calls[-top_layers:]}
    return {call: kind for call, kind in kinds.items() if kind not in ("input", "dropout")}


def _source(graph: Graph, tensor: Any) -> str:
    """Returns what `tensor` comes from: "input", "dropout", or the name of an activation.

    Only the first operand of a sum or a concatenation is followed.
    """
    while (call := graph.producer(tensor)) is not None:
        operation = call.operation
        if is_kind(operation, "dropout"):
            return "dropout"
        activation = activation_name(own_activation(operation))
        weights = operation.weights if isinstance(operation, keras.Layer) else []
        if activation != "linear" or any(is_kernel(v) for v in weights):
            return activation
        tensor = (call.data or call.inputs)[0]
    return "input"


def _dropout_for(call: Call, source: str, rate: float) -> keras.layers.Layer:
    layer = call.operation
    arguments = {"rate": rate, "name": f"{layer.name}_dropout", "dtype": layer.dtype_policy}
    if source == "selu":
        return layers.AlphaDropout(**arguments)
    rank = getattr(layer, "rank", 0)
    if not (rank and hasattr(layer, "data_format")):
        return layers.Dropout(**arguments)
    if rank > 1:
        spatial = getattr(layers, f"SpatialDropout{rank}D")
        return spatial(data_format=layer.data_format, **arguments)
    if layer.data_format == "channels_last":
        return layers.SpatialDropout1D(**arguments)
    return layers.Dropout(noise_shape=(None, None, 1), **arguments)
