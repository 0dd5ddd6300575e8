"""What the search reads of a compiled model and Keras offers only underscored."""

from collections.abc import Callable
from typing import Any

from keras import KerasTensor, tree
from keras.src.utils.naming import reset_uids


def count_names_anew() -> None:
    """Lets the next layer, metric and optimizer be named as in a new process.

    Log names come from them: a second `AUC()` is `auc_1`. The public `clear_session()` does it
    too, but collects garbage for a third of a second and throws away TensorFlow's compiled kernels.
    """
    reset_uids()


def compile_arguments(model: Any) -> dict[str, Any]:
    """Returns the arguments `model` was compiled with, the very objects, and its optimizer.

    `get_compile_config()` is public but serialises them: functions of the user's would be lost, and
    metrics would come back as others than those that the user holds.
    """
    # Under mixed_float16 the model's optimizer wraps the one that was passed.
    return dict(model._compile_config.config) | {"optimizer": model.optimizer}


def graph_nodes(model: Any) -> tuple[list[tuple[Any, Any, Any]], Any] | None:
    """Returns the calls in the graph of `model` as (layer, arguments, keywords), and its outputs.

    Tensors stand as the text `"layer, call, output"` of where they come from. `None` if the model
    has no graph. `get_config()` is public and tells it, too, but serialises
    every layer on the way, which fails for functions that close over objects.
    """
    graph = getattr(model, "_functional", None) or model
    if not hasattr(graph, "_nodes_by_depth"):
        return None

    def source(value: Any) -> Any:
        if not isinstance(value, KerasTensor):
            return value
        history = value._keras_history
        return f"{history.operation.name}, {history.node_index}, {history.tensor_index}"

    nodes = [node for _, nodes in sorted(graph._nodes_by_depth.items()) for node in nodes]
    calls = [
        (
            node.operation,
            tree.map_structure(source, node.arguments.args),
            tree.map_structure(source, node.arguments.kwargs),
        )
        for node in nodes
    ]
    return calls, tree.map_structure(source, graph.outputs)


def run_through_graph(model: Any, inputs: Any, call: Callable[..., Any]) -> Any:
    """Runs the graph of `model`, with `call(layer, *arguments)` in place of each layer's own call.

    `model.operations` lists the layers, but who feeds whom is told only by Keras's own walk.
    """
    graph = getattr(model, "_functional", None) or model
    return graph._run_through_graph(
        inputs, operation_fn=lambda layer: lambda *args, **kwargs: call(layer, *args, **kwargs)
    )


def per_row_metric(metric: Any) -> Callable[..., Any] | None:
    """Returns the function whose mean over rows `metric` is, or `None` if it is no such mean."""
    function = getattr(metric, "_fn", None)
    if function is None:
        return None
    return lambda y_true, y_pred: function(y_true, y_pred, **metric._fn_kwargs)


def built_metrics(model: Any, y_true: Any, y_pred: Any) -> list[Any]:
    """Returns the metrics that `model` was compiled with, `"accuracy"` resolved by the shapes."""
    compiled = model._compile_metrics
    if compiled is None:
        return []
    if not compiled.built:
        compiled.build(y_true, y_pred)
    return list(compiled.metrics)
