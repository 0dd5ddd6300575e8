"""`tune`: a hyperparameter search in one call."""

import inspect
import tempfile
from contextlib import nullcontext
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools._core.replicas import in_strategy_scope
from kerastools.search._oracle.oracle import OptunaOracle
from kerastools.search._population_tuner import PopulationTuner
from kerastools.search._report.report import SearchReport
from kerastools.search._reuse.mutable_hyper_model import MutableHyperModel


@in_strategy_scope
def tune(
    model: Any,
    x: Any,
    y: Any = None,
    objective: Any = "val_loss",
    max_trials: int = 24,
    population: int = 8,
    seed: int | None = 0,
    directory: Any = None,
    storage: Any = None,
    **fit: Any,
) -> SearchReport:
    """Searches the hyperparameters of a model: dropout rate, learning rate, momentum or betas.

    Combines `MutableHyperModel` for a model that was not written for a search, `OptunaOracle` to
    choose the trials, `PopulationTuner` to train several of them in one program, and a
    `SearchReport` of the results.

    Args:
        model: A compiled model, of which each trial trains a copy with new weights (what a layer
            learned in `adapt` is kept); a function without arguments that returns one; or a builder
            `build(hp)` or a `keras_tuner.HyperModel`, whose own hyperparameters are searched.
        x: Inputs, as for `fit`.
        y: Targets.
        objective: Name of the metric to optimize, or a `keras_tuner.Objective`.
        max_trials: Total number of trials.
        population: Maximum number of trials trained together.
        seed: Integer >= 0 that seeds configurations, weights, batches and the split. With `None`, a
            new one each time; a search that is resumed or shared needs an integer.
        directory: Directory of the search's files; an existing search in it is resumed. By default
            a temporary one.
        storage: URL of a database, to run one search in several processes: see `OptunaOracle`.
        **fit: Other arguments of `fit`: `epochs`, `batch_size`, `callbacks`, `verbose` ... Without
            `validation_data`, a fifth of the rows is held out at random.

    Returns:
        A `SearchReport`, which prints as a table. Its `model` is the best model, in the state of
        its best epoch.

    Raises:
        TypeError: If `model` is none of these.
        ValueError: Before the first trial, if nothing can be searched, the objective is not
            reported, the directory holds another search, or `seed=None` would hold out other rows
            when the search is resumed.
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
    holds_out = fit.get("validation_data") is None and not fit.get("validation_split")
    if seed is None:
        if holds_out and (directory is not None or storage is not None):
            raise ValueError(
                "tune needs an integer seed, or validation_data, for a search that can be resumed "
                "or shared: other rows would be held out each time. Received seed=None."
            )
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    if holds_out:
        weight = fit.pop("sample_weight", None)
        arrays = (x, y) if weight is None else (x, y, weight)
        (x, y, *weights), fit["validation_data"] = _split(arrays, seed)
        if weights:
            fit["sample_weight"] = weights[0]
    oracle = OptunaOracle(objective, max_trials, storage=storage, seed=seed)
    context = tempfile.TemporaryDirectory() if directory is None else nullcontext(directory)
    with context as directory:
        tuner = PopulationTuner(
            hypermodel,
            oracle=oracle,
            population=population,
            seed=seed,
            directory=directory,
            project_name="search",
        )
        tuner.search(*((x,) if y is None else (x, y)), **fit)
        try:
            best = tuner.get_best_models(1)[0]
        except FileNotFoundError:
            best = None  # It was trained on another machine.
        return SearchReport.of(tuner, best)


def _hypermodel(model: Any) -> Any:
    if isinstance(model, keras_tuner.HyperModel):
        return model
    if isinstance(model, keras.Model):
        return MutableHyperModel(model)
    if not callable(model):
        raise TypeError(
            "tune needs a compiled keras.Model, a function that returns one, a builder build(hp) "
            f"or a keras_tuner.HyperModel. Received {model!r} of type {type(model).__name__}."
        )
    parameters = inspect.signature(model).parameters.values()
    takes_hp = any(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters)
    return model if takes_hp else MutableHyperModel(model)


def _split(data: tuple[Any, ...], seed: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Returns four fifths of the rows of x, y and sample_weight, and the held out fifth."""
    arrays = keras.tree.flatten(data)
    if data[1] is None or not all(hasattr(a, "shape") and len(a.shape) for a in arrays):
        raise ValueError(
            "tune needs arrays x and y to hold out a fifth of the rows. Pass validation_data=..."
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
        return keras.tree.map_structure(lambda array: np.asarray(array)[index], data)

    return take(rest), take(held_out)
