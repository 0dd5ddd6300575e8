"""A keras-tuner tuner that compiles a model once for all trials that differ in numbers only."""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools._core.keras_private.compiled_model import count_names_anew
from kerastools._core.keras_private.random_state import seed_and_keep_kernels
from kerastools.search._callbacks import BatchHooks, BestState, Clock, Hooks, StopAtRung
from kerastools.search._checks import (
    require_compiled_model,
    require_live,
    require_objective,
    require_reported,
    require_same_space,
)
from kerastools.search._decorrelated_seed import decorrelated_seed
from kerastools.search._oracle.oracle import OptunaOracle
from kerastools.search._reuse.model_cache import LiveModels, state_of
from kerastools.search._stacked.eligibility import bound_fit_arguments, why_search_cannot_stack
from kerastools.search._stacked.population import Member, Population
from kerastools.search._state_files import (
    drop_unrecorded,
    read_arrays,
    save_atomically,
    write_arrays,
    write_json,
)
from kerastools.search._successive_halving import Rungs, SuccessiveHalving

# What keras_tuner.RandomSearch takes, too, and gives to its oracle.
_OF_ORACLE = (
    "hyperparameters",
    "tune_new_entries",
    "allow_new_entries",
    "max_retries_per_trial",
    "max_consecutive_failed_trials",
)


class PopulationTuner(keras_tuner.Tuner):
    """Searches hyperparameters with keras-tuner, without compiling a model for every trial.

    In a search over small or deep nets most of the time goes into building, tracing and saving, not
    into training. Hyperparameters that change numbers only need none of it: this tuner keeps the
    compiled models and gives them each trial's numbers and fresh weights. Everything else is
    keras-tuner's: the builder, the oracles, `search`, resumption, `get_best_models`.

    What is live is found by building, not declared: each trial's model is built as the builder says
    and compared with those compiled before, in all that a step can depend on (classes,
    configurations, graph, loss, metrics, the code of functions and what they close over). Live are
    the rate of `kerastools.layers.Dropout`; learning rate, momentum, betas, epsilon, weight decay
    and clip thresholds of `kerastools.optimizers`; the learning rate of Keras's own optimizers; on
    TensorFlow the factors of L1 and L2 and the bound of MaxNorm; initializers and seeds. A
    hyperparameter that changes anything else beside them (units, depth, an activation, Keras's own
    `Dropout`) has a model compiled for each of its values, as in keras-tuner.
    `tuner.ways[trial_id]` says for every trial which it was, and why.

    Trials of one structure are also trained together, `population` at a time, in one program that
    holds the weights of all: a place that becomes free, because its trial is done, stopped or
    diverged, is given to the next at once. `search` must be given NumPy arrays and no callbacks but
    `EarlyStopping` and `TerminateOnNaN`. On JAX, Keras's own step is vectorised over the trials,
    whatever the model. On TensorFlow it takes a graph of Keras's and our layers (masks of time
    steps, recurrent layers with dropout or state and activity regularizers excepted) with
    `kerastools.optimizers.SGD`, `Adagrad`, `RMSprop`, `Adam`, `Nadam`, `Adamax` or `RAdam`: dense,
    convolutional, normalising, pooling and recurrent layers, embeddings and the like are computed
    for all trials at once, other layers trial by trial in the same program. Where the program's
    steps are so long that it may not pay, one trial is trained alone and the cheaper way is taken
    from then on. Anything else is trained one trial after the other. Trials in a population see the
    same batches.

    A trial's result is that of a model built for it alone: to the bit where one is trained after
    the other, up to rounding where they are trained together. A trial whose builder raises or whose
    loss becomes NaN is marked as failed, with a warning, and the search goes on; it raises when all
    have failed. Trials begin with `keras.utils.set_random_seed` at seeds of their own, spread from
    `seed`. State files are whole at any moment: after Ctrl-C or a kill the same script goes on with
    the trials that were not finished.

    Args:
        hypermodel: A `keras_tuner.HyperModel`, or a function that takes hyperparameters and returns
            a compiled model. A `Sequential` may lack `keras.Input` where the data are an array.
        objective: Name of what is optimised, such as `"val_accuracy"`, a `keras_tuner.Objective` or
            a list of them.
        max_trials: Number of trials in all, those of an interrupted search included.
        population: How many trials are trained together, at most; with 1, one after the other.
        halving: `SuccessiveHalving(...)`, by which trials that are behind are stopped early; by
            default all are trained for all epochs.
        seed: Integer from 0 from which configurations, weights and batches are drawn; by default
            new for each search.
        oracle: A `keras_tuner.Oracle` that chooses the configurations, in place of random search;
            `objective` and `max_trials` are then given to it. Not Hyperband's.
        directory: Folder of the search's files, on a local disk.
        project_name: Name of the folder in it.
        overwrite: Whether to delete a search that is there, instead of going on with it. A study in
            a `storage` is not deleted but refused: others may be working on it.
        **kwargs: `executions_per_trial`, `max_model_size` and the others of `keras_tuner.Tuner`;
            `hyperparameters`, `tune_new_entries` and the others of `keras_tuner.RandomSearch`,
            which beside an `oracle` must be given to that.

    Raises:
        TypeError: From `search`, if the builder returns no model.
        ValueError: If `seed` is negative, what an oracle takes stands beside `oracle`, or
            `overwrite` is to delete a study in a storage; from `search`, if the model is not
            compiled, the objective will not be reported, no hyperparameter is live, or the
            directory holds another search. All before the first trial.
        RuntimeError: From `search`, when every trial failed.

    Example:

    >>> import tempfile
    >>> from kerastools.layers import Dropout
    >>> from kerastools.optimizers import Adam
    >>> from kerastools.search import dropout, learning_rate
    >>> def build(hp):
    ...     model = keras.Sequential([
    ...         keras.Input((4,)),
    ...         keras.layers.Dense(8, activation="relu"),
    ...         Dropout(dropout(hp)),
    ...         keras.layers.Dense(1),
    ...     ])
    ...     model.compile(Adam(learning_rate(hp)), "mse")
    ...     return model
    >>> x, y = np.random.default_rng(0).normal(size=(2, 64, 4))
    >>> folder = tempfile.mkdtemp()
    >>> tuner = PopulationTuner(build, "val_loss", max_trials=3, seed=0, directory=folder)
    >>> tuner.search(x, y[:, :1], validation_split=0.25, epochs=2, verbose=0)
    >>> tuner.ways["1"]
    "live: compiled before, given this trial's numbers"
    >>> sorted(tuner.get_best_hyperparameters()[0].values)
    ['dropout', 'learning_rate']
    """

    def __init__(
        self,
        hypermodel: Any,
        objective: Any = None,
        max_trials: int = 10,
        population: int = 8,
        halving: SuccessiveHalving | None = None,
        seed: int | None = None,
        oracle: keras_tuner.Oracle | None = None,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        **kwargs: Any,
    ) -> None:
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        of_oracle = {name: kwargs.pop(name) for name in _OF_ORACLE if name in kwargs}
        if objective is not None:
            of_oracle["objective"] = objective
        if oracle is None:
            # A run of diverged trials is no reason to stop.
            patient = {"max_consecutive_failed_trials": max_trials + 1}
            oracle = keras_tuner.oracles.RandomSearchOracle(
                max_trials=max_trials, seed=decorrelated_seed(seed), **patient | of_oracle
            )
        elif of_oracle:
            raise ValueError(
                f"PopulationTuner takes {', '.join(of_oracle)} from the oracle. Received "
                f"{', '.join(f'{name}={value!r}' for name, value in of_oracle.items())} beside "
                f"oracle={type(oracle).__name__}: give that to it."
            )
        elif isinstance(oracle, keras_tuner.oracles.HyperbandOracle):
            raise ValueError(
                "PopulationTuner cannot resume the trials that HyperbandOracle promotes. Use "
                "keras_tuner.Hyperband, or another oracle."
            )
        if population < 1:
            raise ValueError(f"PopulationTuner needs population >= 1. Received {population}.")
        if overwrite and isinstance(oracle, OptunaOracle):
            oracle.require_no_study(project_name or "untitled_project")
        self.population = population
        self.seed = decorrelated_seed(seed)
        self.ways: dict[str, str] = {}
        self._live = LiveModels()
        shared = {"share": oracle.share} if isinstance(oracle, OptunaOracle) else {}
        self._rungs = Rungs(halving, oracle.objective, **shared)
        self._clock = Clock()
        self._prepared: dict[str, Any] = {}
        self._trained: dict[str, tuple[Any, list[np.ndarray]]] = {}
        self._progress: Progress | None = None
        self._given_space = oracle.get_space()
        self._input_shape: tuple[int | None, ...] | None = None
        save_atomically(oracle)
        super().__init__(
            oracle,
            hypermodel,
            directory=None if directory is None else os.fspath(directory),
            project_name=project_name,
            overwrite=overwrite,
            **kwargs,
        )

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Runs the trials that remain.

        Args:
            *fit_args: What `model.fit` takes: the data.
            **fit_kwargs: As for `model.fit`: `validation_data`, `epochs`, `batch_size`, `callbacks`
                and so on. With `verbose=0` nothing is printed; with 1, the default, a line for each
                trial; with 2 Keras's output, too.
        """
        verbose = fit_kwargs.pop("verbose", 1)
        verbose = 1 if verbose == "auto" else int(verbose)
        self._check(dict(zip(("x", "y"), fit_args, strict=False)) | fit_kwargs)
        self.save()  # From now on the search can be resumed.
        self._progress = Progress(self.oracle) if verbose else None
        self.oracle.verbose = max(0, verbose - 1)
        with warnings.catch_warnings(), _released(self.oracle):
            # keras-tuner locks with methods that Python renamed long ago.
            warnings.filterwarnings("ignore", "currentThread|getName", DeprecationWarning)
            alone = why_search_cannot_stack(self, fit_args, fit_kwargs)
            if alone is None and self.population > 1:
                fit = bound_fit_arguments(fit_args, fit_kwargs) or {}
                self.on_search_begin()
                finish = partial(self._finish, fit)
                keras.utils.set_random_seed(self.seed)
                build = partial(self._build, set_seed=seed_and_keep_kernels)
                Population(self, fit, self._rungs, build, finish).run()
                self.on_search_end()
            else:
                if alone is not None and self.population > 1 and verbose:
                    print(f"One trial after the other, because {alone}.")
                super().search(*fit_args, **fit_kwargs, verbose=max(0, verbose - 1))
        self._require_a_success()

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """Trains the model of one trial and returns the histories of its executions."""
        if trial.trial_id in self._trained:
            history, arrays = self._trained.pop(trial.trial_id)
            _require_numbers(history)
            write_arrays(self._checkpoint_path(trial), arrays)
            return [history]
        best = BestState(self.oracle.objective)
        callbacks = kwargs.pop("callbacks", None) or []
        histories = []
        for execution in range(self.executions_per_trial):
            own = self._deepcopy_callbacks(callbacks)
            if any(type(callback).__name__ == "TensorBoard" for callback in own):
                self._configure_tensorboard_dir(own, trial, execution)
            stop = StopAtRung(self._rungs, trial.trial_id, best)
            own += [self._hooks(trial), best, *([stop] if execution == 0 else []), self._clock]
            fresh = self._prepared.pop(trial.trial_id, None) or self._build(trial, execution)
            if isinstance(fresh, Exception):
                self.ways[trial.trial_id] = self.ways[trial.trial_id].removeprefix("; ")
                raise fresh
            model, way = self._live.model_like(fresh)
            because = self.ways.get(trial.trial_id, "") if execution == 0 else ""
            self.ways[trial.trial_id] = way + because
            keras.utils.set_random_seed(self._trial_seed(trial, execution))
            try:
                history = self.hypermodel.fit(
                    trial.hyperparameters, model, *args, **{**kwargs, "callbacks": own}
                )
            except BaseException:
                self._live.forget(model)
                raise
            self._live.check(model)
            _require_numbers(history)
            require_reported(self.oracle.objective, history)
            histories.append(history)
            if stop.stopped:
                stopped = f", stopped after {stop.stopped} epochs by successive halving"
                self.ways[trial.trial_id] += stopped
                break
        if best.arrays:
            write_json(self._build_config_path(trial), model.get_build_config())
            write_arrays(self._checkpoint_path(trial), best.arrays)
        return histories

    def load_model(self, trial: Any) -> keras.Model:
        """Returns the trial's model as it was in its best epoch, its optimizer included."""
        model = self._build(trial)
        if not model.built:
            with open(self._build_config_path(trial)) as file:
                model.build_from_config(json.load(file))
        arrays = read_arrays(self._checkpoint_path(trial))
        for variable, array in zip(state_of(model), arrays, strict=True):
            variable.assign(array)
        return model

    def on_trial_end(self, trial: Any) -> None:
        """Records the trial, and says so if it failed."""
        super().on_trial_end(trial)
        if trial.status in ("FAILED", "INVALID"):
            warnings.warn(f"Trial {trial.trial_id} failed: {_last_line(trial)}", stacklevel=2)
        if self._progress is not None:
            self._progress.show(trial, self.ways.get(trial.trial_id, ""))

    def save(self) -> None:
        """Writes the search's state."""
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def reload(self) -> None:
        """Reads the state of the search in this directory.

        Raises:
            ValueError: If it is another search.
        """
        try:
            super().reload()
        except json.JSONDecodeError as error:
            raise ValueError(
                f"PopulationTuner found a damaged state file in {self.project_dir!r}: {error}. It "
                "was not written by this tuner. Pass overwrite=True to delete that search."
            ) from error
        drop_unrecorded(self.oracle)
        require_same_space(self._ask, self.oracle, self.project_dir)

    def get_state(self) -> dict[str, Any]:
        """Returns what a resumed search goes on with."""
        objective = str(self.oracle.objective)
        return {
            "seed": self.seed,
            "objective": objective,
            "rungs": self._rungs.state(),
            "input_shape": self._input_shape,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` returned."""
        if state.get("objective") != str(self.oracle.objective):
            raise ValueError(
                f"PopulationTuner found another search in {self.project_dir!r}, with objective "
                f"{state.get('objective')}; this one has {self.oracle.objective}. Give it a "
                "directory or project_name of its own, or pass overwrite=True to delete that one."
            )
        self.seed = state["seed"]
        self._rungs.load(state.get("rungs", ()), self.oracle.end_order)
        shape = state.get("input_shape")
        self._input_shape = None if shape is None else tuple(shape)

    def _check(self, fit: dict[str, Any]) -> None:
        self._input_shape = input_shape_of(fit.get("x"))
        space = self.oracle.get_space()
        model = self._build_once(space.copy())
        require_compiled_model(model)
        require_objective(self, model, fit)
        require_live(model, self._build_once, space)

    def _ask(self, hp: keras_tuner.HyperParameters) -> None:
        """Fills `hp` with all that is searched, as the first build did."""
        hp.merge(self._given_space)
        self.hypermodel.build(hp if self.oracle.tune_new_entries else hp.copy())

    def _finish(
        self, fit: dict[str, Any], member: Member, way: str, arrays: list[Any] | None
    ) -> float | None:
        """Ends a trial that was trained in a population, or trains it alone and ends it."""
        self.ways[member.name] = way
        if arrays is None:
            self._prepared[member.name] = member.model
        else:
            self._trained[member.name] = (member.history, arrays)
        self._clock = Clock()
        self._try_run_and_update_trial(member.trial, **fit, verbose=0)
        self.on_trial_end(member.trial)
        return self._clock.seconds

    def _build(
        self,
        trial: Any,
        execution: int = 0,
        set_seed: Callable[[int], None] = keras.utils.set_random_seed,
    ) -> keras.Model:
        """Returns the trial's model as the builder makes it."""
        set_seed(self._trial_seed(trial, execution))
        model = self._build_once(trial.hyperparameters)
        require_compiled_model(model)
        if self.max_model_size and model.built:
            size = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
            if size > self.max_model_size:
                raise keras_tuner.errors.FailedTrialError(
                    f"the model has {size} parameters, more than max_model_size"
                )
        return model

    def _build_once(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        count_names_anew()
        return with_input(self._build_hypermodel(hp), self._input_shape)

    def _trial_seed(self, trial: Any, execution: int) -> int:
        name = str(trial.trial_id)
        number = [int(name)] if name.isdecimal() else list(name.encode())
        sequence = np.random.SeedSequence([self.seed, execution, *number])
        return int(sequence.generate_state(1)[0])

    def _hooks(self, trial: Any) -> keras.callbacks.Callback:
        hooks = (type(self).on_batch_begin, type(self).on_batch_end)
        stock = (keras_tuner.Tuner.on_batch_begin, keras_tuner.Tuner.on_batch_end)
        return (Hooks if hooks == stock else BatchHooks)(self, trial)

    def _require_a_success(self) -> None:
        trials = [self.oracle.trials[name] for name in self.oracle.end_order]
        if trials and all(trial.status == "FAILED" for trial in trials):
            raise RuntimeError(
                f"All {len(trials)} trials of the search failed. The first: {trials[0].message}"
            )

    def _checkpoint_path(self, trial: Any) -> str:
        return os.path.join(self.get_trial_dir(trial.trial_id), "checkpoint")

    def _build_config_path(self, trial: Any) -> str:
        return os.path.join(self.get_trial_dir(trial.trial_id), "build_config.json")


@contextmanager
def _released(oracle: Any) -> Iterator[None]:
    """Lets others run the trials of a search that is left by an exception."""
    try:
        yield
    except BaseException:
        if isinstance(oracle, OptunaOracle):
            oracle.release()
        raise


def _require_numbers(history: Any) -> None:
    """Raises if the loss is not a number in some epoch."""
    losses = getattr(history, "history", {}).get("loss", [])
    bad = [epoch for epoch, loss in enumerate(losses, 1) if not np.isfinite(loss)]
    if bad:
        raise keras_tuner.errors.FailedTrialError(
            f"diverged: the loss is not finite in epoch {bad[0]}"
        )


def _last_line(trial: Any) -> str:
    message = (trial.message or "the objective is NaN").strip()
    return message.splitlines()[-1]


def input_shape_of(x: Any) -> tuple[int | None, ...] | None:
    """Returns the shape of batches of `x`; `None` unless it is an array of numbers."""
    if isinstance(x, np.ndarray) and x.ndim > 1 and x.dtype.kind in "biuf":
        return (None, *x.shape[1:])
    return None


def with_input(model: Any, shape: tuple[int | None, ...] | None) -> Any:
    """Returns `model`, built for batches of `shape` if it is a `Sequential` that has no input.

    Its weights are those that `fit` would have drawn: Keras's initializers and dropout layers are
    seeded when they are made, not when they are built.
    """
    if shape is not None and isinstance(model, keras.Sequential) and not model.built:
        model.build(shape)
    return model


class Progress:
    """Prints trials done and running, the best score so far and the time left.

    Trials of other processes that work on the same search count as well.
    """

    def __init__(self, oracle: Any) -> None:
        self.oracle = oracle
        self.started = time.perf_counter()
        self.before = len(oracle.end_order)

    def show(self, trial: Any, way: str) -> None:
        """Prints where the search stands after `trial`, which was trained the `way` it says."""
        done, total = len(self.oracle.end_order), self.oracle.max_trials
        running = sum(t.status == "RUNNING" for t in self.oracle.trials.values())
        best = [t.score for t in self.oracle.get_best_trials(1) if t.score is not None]
        here = time.perf_counter() - self.started
        left = here / max(1, done - self.before) * (total - done) if total else None
        score = "failed" if trial.status != "COMPLETED" else f"{trial.score:.4f}"
        print(
            f"trial {trial.trial_id}  {done}/{total or '?'}  {self.oracle.objective.name} {score}"
            f"  best {f'{best[0]:.4f}' if best else '-'}"
            + (f"  {running} running" if running else "")
            + ("" if left is None else f"  about {_duration(left)} left")
            + f"  ({way})",
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
