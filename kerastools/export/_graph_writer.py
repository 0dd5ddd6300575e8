"""Writing the graph of a model, with its weights in it or beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import sublayers
from kerastools.export._endpoint import Endpoint
from kerastools.export._reference import Reference

# A graph is one protocol buffer message, which holds less than 2 GiB; the rest is margin.
_LARGEST_GRAPH = 2**31 - 2**27


def write_graph(
    models: dict[str, Any], cases: dict[str, Reference], directory: Path, freeze: bool
) -> None:
    """Writes `models`, each with the signature of the case of that name.

    That of `serving_default` is also the endpoint `serve`, which takes and returns the structure
    that the model does, as `model.export` writes it.

    Args:
        models: The models as they are to be served; one may be written for several endpoints.
        cases: What they stand for, with the dtype of each output: a model that computes in half
            precision returns what the model that it was made of returns.
        directory: Where to write.
        freeze: Whether the weights become constants.

    Raises:
        ValueError: If the weights cannot be constants.
    """
    import tensorflow as tf

    if freeze:
        _check_size(models.values())
    module, signatures, written = tf.Module(), {}, []
    for name, case in cases.items():
        call = _frozen(models[name]) if freeze else _plain(models[name])
        serve = _structured(call, case.endpoint, case.dtypes)
        signatures[name] = _by_name(serve, case.endpoint)
        written.append(signatures[name])
        if name == "serving_default":
            module.serve = serve
            if _is_flat(serve.structured_outputs):
                signatures["serve"] = serve
    variables = {id(v): v for function in written for v in function.variables}
    if freeze and variables:
        names = ", ".join(sorted({v.name.partition(":")[0] for v in variables.values()}))
        raise ValueError(f"the model uses variables that are not among its weights: {names}")
    module.weights = list(variables.values())
    module.resources = [r for model in models.values() for r in _resources(model)]
    # Custom gradients, that of silu for one, cannot be saved from a graph and serve nothing here.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(directory), signatures, options)


def _structured(call: Callable[[list[Any]], Any], endpoint: Endpoint, dtypes: list[str]) -> Any:
    """Returns `call` as a TensorFlow graph that takes what the model takes."""
    import tensorflow as tf

    names = iter(endpoint.inputs)
    specs = keras.tree.map_structure(
        lambda t: tf.TensorSpec(t.shape, keras.backend.standardize_dtype(t.dtype), next(names)),
        endpoint.arguments,
    )

    def serve(*arguments: Any) -> Any:
        outputs = call(list(arguments))
        flat = zip(keras.tree.flatten(outputs), dtypes, strict=True)
        return keras.tree.pack_sequence_as(
            outputs, [y if y.dtype == dtype else keras.ops.cast(y, dtype) for y, dtype in flat]
        )

    # One graph for all: saving a tf.function would trace it, and write its constants, again.
    return tf.function(serve, input_signature=specs, autograph=False).get_concrete_function()


def _by_name(serve: Any, endpoint: Endpoint) -> Any:
    """Returns `serve` as a graph that takes and returns tensors by name."""
    import tensorflow as tf

    specs = {
        name: tf.TensorSpec(t.shape, keras.backend.standardize_dtype(t.dtype), name)
        for name, t in zip(endpoint.inputs, endpoint.tensors, strict=True)
    }

    def serving_default(**named: Any) -> dict[str, Any]:
        flat = [named[name] for name in endpoint.inputs]
        return endpoint.named(serve(*keras.tree.pack_sequence_as(endpoint.arguments, flat)))

    return tf.function(serving_default, autograph=False).get_concrete_function(**specs)


def _is_flat(outputs: Any) -> bool:
    """Whether TensorFlow takes them for a signature: tensors in one list or dictionary at most."""
    return all(len(path) <= 1 for path, _ in keras.tree.flatten_with_path(outputs))


def _plain(model: Any) -> Callable[[list[Any]], Any]:
    return lambda arguments: model(*arguments, training=False)


def _frozen(model: Any) -> Callable[[list[Any]], Any]:
    """Returns `model` with constants for its weights."""
    import tensorflow as tf

    values = [(v, keras.ops.convert_to_numpy(v)) for v in model.variables]

    def call(arguments: list[Any]) -> Any:
        before = [(v, tf.constant(value, v.dtype)) for v, value in values]
        with keras.StatelessScope(before) as scope:
            outputs = model(*arguments, training=False)
        for variable, value in before:
            after = scope.get_current_value(variable)
            if after is not None and after is not value:
                raise ValueError(f"the model changes {variable.path} in inference")
        return outputs

    return call


def _check_size(models: Any) -> None:
    import tensorflow as tf

    weights = [v for model in models for v in model.variables]
    size = sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in weights)
    if size > _LARGEST_GRAPH:
        raise ValueError(
            f"{size / 1e9:.1f} GB of weights do not fit into a graph, which holds 2 GB"
        )


def _resources(model: Any) -> list[Any]:
    """Returns what must be saved beside the variables: tables, and what holds some."""
    import tensorflow as tf

    resource = tf.saved_model.experimental.TrackableResource
    found = []
    for part in sublayers(model):
        # The tables of lookup layers stand deeper than in their attributes.
        if hasattr(part, "save_assets"):
            found.append(part)
        found += [value for value in vars(part).values() if isinstance(value, resource)]
    return found
