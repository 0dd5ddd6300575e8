"""Writing the graph of a model, with its weights in it or beside it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Graph, sublayers
from kerastools.export._polish import keep_apart
from kerastools.export._signature import input_names, output_names

# A graph is one protocol buffer message, which holds less than 2 GiB; the rest is margin.
_LARGEST_GRAPH = 2**31 - 2**27


def write_graph(
    served: Any, graph: Graph, directory: Path, freeze: bool, copied: bool
) -> tuple[bool, str | None]:
    """Writes `served`, which may be changed if it is `copied`, with the signature of `graph`.

    Returns:
        Whether its weights are constants, and if not so although `freeze` is set, why.
    """
    import tensorflow as tf

    note = _too_large(served) if freeze else None
    frozen = freeze and note is None
    if frozen:
        function, changes = _frozen_function(served, graph)
        if changes:
            frozen, note = False, f"the model changes {changes[0]} in inference"
    module = tf.Module()
    # The tables of lookup layers are no constants: tracking their layers saves them.
    module.lookups = [part for part in sublayers(served) if hasattr(part, "save_assets")]
    if not frozen:
        if copied:
            keep_apart(served)
        module.weights = [v.value for v in served.variables]
        function = _trace(lambda inputs: served(inputs, training=False), graph)
    # Custom gradients, that of silu for one, cannot be saved from a graph and serve nothing here.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(directory), {"serving_default": function}, options)
    return frozen, note


def _trace(call: Callable[[Any], Any], graph: Graph) -> Any:
    """Returns `call` as a TensorFlow graph that takes and returns tensors by name."""
    import tensorflow as tf

    names = input_names(graph)
    specs = {
        name: tf.TensorSpec(t.shape, t.dtype, name)
        for name, t in zip(names, graph.inputs, strict=True)
    }

    def serving_default(**named: Any) -> dict[str, Any]:
        flat = [named[name] for name in names]
        results = keras.tree.flatten(call(keras.tree.pack_sequence_as(graph.input_structure, flat)))
        # A model that computes in bfloat16 returns what the model that it was made of returns.
        dtypes = [t.dtype for t in graph.outputs]
        outputs = [keras.ops.cast(y, dtype) for y, dtype in zip(results, dtypes, strict=True)]
        return dict(zip(output_names(graph), outputs, strict=True))

    return tf.function(serving_default, autograph=False).get_concrete_function(**specs)


def _frozen_function(served: Any, graph: Graph) -> tuple[Any, list[str]]:
    """Returns the graph with constants for weights, and what the model would change in them."""
    import tensorflow as tf

    trainable, others = (
        [(keras.ops.convert_to_numpy(v), v.dtype) for v in variables]
        for variables in (served.trainable_variables, served.non_trainable_variables)
    )
    changes: list[str] = []

    def call(inputs: Any) -> Any:
        before = [tf.constant(*value) for value in others]
        outputs, after = served.stateless_call(
            [tf.constant(*value) for value in trainable], before, inputs, training=False
        )
        triples = zip(served.non_trainable_variables, before, after, strict=True)
        changes.extend(v.path for v, old, new in triples if old is not new)
        return outputs

    return _trace(call, graph), changes


def _too_large(model: Any) -> str | None:
    import tensorflow as tf

    size = sum(int(np.prod(v.shape)) * tf.as_dtype(v.dtype).size for v in model.variables)
    if size > _LARGEST_GRAPH:
        return f"{size / 1e9:.1f} GB of weights do not fit into a graph, which holds 2 GB"
    return None
