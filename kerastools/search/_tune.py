"""A search in one call."""

import inspect
import tempfile
from contextlib import nullcontext
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools.search._oracle.oracle import OptunaOracle
from kerastools.search._population_tuner import PopulationTuner
from kerastools.search._report.report import SearchReport
from kerastools.search._reuse.mutable_parts import LiveNumbers


def tune(
    model: Any,
    x: Any,
    y: Any = None,
    objective: Any = "val_loss",
    max_trials: int = 24,
    population: int = 8,
    seed: int = 0,
    directory: Any = None,
    storage: Any = None,
    **fit: Any,
) -> SearchReport:
    """Searches the numbers of a model: dropout rate, learning rate, momentum or betas.

    In one call what a search usually takes: `LiveNumbers` around a model that was not written for
    a search, `OptunaOracle` to choose the trials, `PopulationTuner` to train several of them in one
    program, and a `SearchReport` of what was found. `LiveNumbers` says which dropout layers count.

    Args:
        model: A compiled model, of which each trial trains a copy with new weights (what a layer
            learned in `adapt` is kept); a function without arguments that returns one; or a builder
            `build(hp)` or a `keras_tuner.HyperModel` with hyperparameters of its own, which are
            then searched.
        x: Inputs, as `fit` takes them.
        y: Targets.
        objective: Name of what is optimised, or a `keras_tuner.Objective`.
        max_trials: Number of trials in all.
        population: How many trials are trained together, at most.
        seed: Integer from 0 from which configurations, weights, batches and the split are drawn.
        directory: Folder of the search's files. In one that is there already the search goes on
            where it was; by default a temporary one.
        storage: URL of a database, for several processes at one search: see `OptunaOracle`.
        **fit: What else `fit` takes: `epochs`, `batch_size`, `callbacks`, `verbose` ... Without
            `validation_data` a fifth of the rows, drawn by `seed`, is held out.

    Returns:
        A `SearchReport`; `print` it. Its `model` is the best one, as it was in its best epoch.

    Raises:
        TypeError: If `model` is none of these.
        ValueError: If nothing can be searched, the objective will not be reported, or the directory
            holds another search. All before the first trial.
        RuntimeError: If every trial failed.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.01), "mse")
    >>> x = np.random.default_rng(0).normal(size=(80, 3)).astype("float32")
    >>> report = tune(model, x, x @ [[1.0], [2.0], [3.0]], max_trials=3, epochs=2, verbose=0)
    >>> len(report.trials), sorted(report.shown(report.best))
    (3, ['learning_rate', 'momentum'])
    """
    hypermodel = _hypermodel(model)
    if fit.get("validation_data") is None and not fit.get("validation_split"):
        x, y, fit["validation_data"] = _split(x, y, seed)
    oracle = OptunaOracle(objective, max_trials, storage=storage, seed=seed)
    folder = tempfile.TemporaryDirectory() if directory is None else nullcontext(directory)
    with folder as path:
        tuner = PopulationTuner(
            hypermodel,
            oracle=oracle,
            population=population,
            seed=seed,
            directory=path,
            project_name="search",
        )
        tuner.search(*((x,) if y is None else (x, y)), **fit)
        try:
            best = tuner.get_best_models(1)[0]
        except FileNotFoundError:
            best = None  # It was trained elsewhere.
        return SearchReport.of(tuner, best)


def _hypermodel(model: Any) -> Any:
    if isinstance(model, keras_tuner.HyperModel):
        return model
    if isinstance(model, keras.Model):
        return LiveNumbers(model)
    if not callable(model):
        raise TypeError(
            "tune needs a compiled keras.Model, a function that returns one, a builder build(hp) "
            f"or a keras_tuner.HyperModel. Received {model!r} of type {type(model).__name__}."
        )
    parameters = inspect.signature(model).parameters.values()
    takes_hp = any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters)
    return model if takes_hp else LiveNumbers(model)


def _split(x: Any, y: Any, seed: int) -> tuple[Any, Any, tuple[Any, Any]]:
    arrays = keras.tree.flatten((x, y))
    if y is None or not all(hasattr(a, "shape") and len(a.shape) for a in arrays):
        raise ValueError(
            "tune holds out a fifth of the rows only of arrays x and y. Pass validation_data=..."
        )
    rows = {len(a) for a in arrays}
    if len(rows) != 1 or min(rows) < 2:
        raise ValueError(
            "tune needs arrays x and y of the same number of rows, at least 2. Received "
            f"{[tuple(a.shape) for a in arrays]}."
        )
    order = np.random.default_rng(seed).permutation(min(rows))
    held_out, rest = np.split(order, [max(1, len(order) // 5)])

    def take(index: np.ndarray) -> Any:
        return keras.tree.map_structure(lambda array: np.asarray(array)[index], (x, y))

    return *take(rest), take(held_out)
