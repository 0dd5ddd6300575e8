"""Monte Carlo dropout: predictions with dropout on, and their spread."""

from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.batches import gather, is_dataset
from kerastools._core.checks import require_at_least, require_finite
from kerastools._core.compiled import compiled
from kerastools._core.graph.calls import Call, Graph, as_recorded, read_graph, replay, sublayers
from kerastools._core.graph.kinds import is_kind, parent_kind

_NAME = "predict_with_dropout"


def predict_with_dropout(
    model: keras.Model, x: Any, num_samples: int = 32, batch_size: int = 32, seed: int | None = None
) -> tuple[Any, Any]:
    """Monte Carlo dropout: returns the mean and the spread of predictions with dropout on.

    The spread tells how uncertain each prediction of a model trained with dropout is. Each sample
    draws new masks M, one per row:

        ŷₛ = f(x; Mₛ),   mean = Σ ŷₛ / S,   spread = √(Σ (ŷₛ − mean)² / (S − 1))

    Only dropout works as in training: dropout layers of Keras and of kerastools, and the `dropout`
    of recurrent and attention layers. Batch normalization, noise and augmentation work as in
    inference. The model is not changed, its random states included.

    Args:
        model: A built functional or Sequential model with dropout.
        x: Inputs: an array, a list or dictionary of arrays, or a dataset that ends.
        num_samples: S, how many predictions are made for each row; at least 2.
        batch_size: Rows that are run at a time.
        seed: Integer that makes the masks repeatable; by default it is new each time.

    Returns:
        `(mean, spread)`, each of the shape of `model.predict(x)`.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, its graph cannot be read, it has no dropout, `x` holds NaN,
            or `num_samples` is below 2.

    Example:

    >>> import keras
    >>> from kerastools.layers import Dropout
    >>> model = keras.Sequential([keras.Input((100,)), Dropout(0.5),
    ...                           keras.layers.Dense(1, kernel_initializer="ones")])
    >>> mean, spread = predict_with_dropout(model, np.ones((4, 100)), num_samples=1000, seed=1)
    >>> mean.shape, bool(abs(mean - 100).max() < 2), bool(abs(spread - 10).max() < 1)
    ((4, 1), True, True)

    Reference: Gal and Ghahramani, "Dropout as a Bayesian approximation: representing model
    uncertainty in deep learning", ICML 2016.
    """
    graph = read_graph(model, _NAME)
    require_at_least(2, _NAME, num_samples=num_samples)
    require_at_least(1, _NAME, batch_size=batch_size)
    if not any(_drops(layer) for layer in sublayers(model)):
        raise ValueError(
            f'{_NAME} needs a model with dropout. Received model "{model.name}" without. '
            "kerastools.regularization.regularize(model, dropout=0.2) inserts some."
        )
    x = gather(x, _NAME)[0] if is_dataset(x) else x
    x = tree.map_structure(lambda a: require_finite("x", a, _NAME), x)
    states = [v for v in model.variables if v.name == "seed_generator_state"]
    others = [v for v in model.variables if v.name != "seed_generator_state"]

    def sample(batch: Any, drawn: Any, values: Any) -> Any:
        with keras.StatelessScope(
            [*zip(states, drawn, strict=True), *zip(others, values, strict=True)]
        ):
            return tree.flatten(replay(graph, batch, _with_dropout, training=False))

    run = compiled(sample)
    rng = np.random.default_rng(seed)
    values = [ops.convert_to_tensor(v) for v in others]
    means, spreads = [], []
    for start in range(0, len(tree.flatten(x)[0]), batch_size):
        batch = _as_dtypes(graph, x, slice(start, start + batch_size))
        drawn = [
            [rng.integers(2**31, size=2).astype(v.dtype) for v in states]
            for _ in range(num_samples)
        ]
        results = [[ops.convert_to_numpy(t) for t in run(batch, d, values)] for d in drawn]
        stacked = [np.stack(r).astype("float64") for r in zip(*results, strict=True)]
        means.append([s.mean(axis=0) for s in stacked])
        spreads.append([s.std(axis=0, ddof=1) for s in stacked])
    return _joined(graph, means), _joined(graph, spreads)


def _drops(layer: Any) -> bool:
    rates = (getattr(layer, name, 0) for name in ("dropout", "recurrent_dropout", "_dropout"))
    return is_kind(layer, "dropout") or any(isinstance(r, float) and r > 0 for r in rates)


def _with_dropout(call: Call, args: Any, kwargs: Any) -> Any:
    parts = sublayers(call.operation) if isinstance(call.operation, keras.Layer) else []
    if not any(_drops(part) for part in parts):
        return as_recorded(call, args, kwargs)
    if any(parent_kind(part).moving_statistics for part in parts):
        raise ValueError(
            f'{_NAME} cannot switch on the dropout inside layer "{call.path}" without its batch '
            "normalisation. Build that part from Keras layers in a functional model."
        )
    return as_recorded(call, args, {**kwargs, "training": True})


def _as_dtypes(graph: Graph, x: Any, rows: slice) -> Any:
    """Returns some rows of `x`, floating numbers as float32 at most."""
    floatx = keras.config.floatx()
    return tree.map_structure(
        lambda a: a[rows].astype(floatx) if a.dtype.kind == "f" else a[rows], x
    )


def _joined(graph: Graph, batches: list[list[np.ndarray]]) -> Any:
    """Returns the rows of all batches, in the structure and precision of the model's outputs."""
    outputs = [np.concatenate(parts).astype("float32") for parts in zip(*batches, strict=True)]
    return (
        outputs[0] if len(outputs) == 1 else tree.pack_sequence_as(graph.output_structure, outputs)
    )
