"""A keras-tuner tuner that trains many trials in one compiled program."""

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

from kerastools._core.checks import require_at_least
from kerastools._core.keras_private.compiled_model import count_names_anew
from kerastools._core.keras_private.random_state import seed_and_keep_kernels
from kerastools._core.keras_private.tuner import (
    build_model,
    copied_callbacks,
    is_worker,
    log_apart,
    run_trial,
    state_file,
)
from kerastools._core.notices import notify
from kerastools.search._callbacks import BatchHooks, BestState, EpochTimer, Hooks, StopAtRung
from kerastools.search._checks import (
    notify_if_nothing_is_mutable,
    require_compiled_model,
    require_objective,
    require_reported,
    require_same_space,
)
from kerastools.search._decorrelated_seed import decorrelated_seed
from kerastools.search._oracle.oracle import OptunaOracle
from kerastools.search._reuse.description import has_user_code
from kerastools.search._reuse.model_cache import ModelCache, state_of
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

# Arguments that keras_tuner.RandomSearch, too, passes to its oracle.
_OF_ORACLE = (
    "hyperparameters",
    "tune_new_entries",
    "allow_new_entries",
    "max_retries_per_trial",
    "max_consecutive_failed_trials",
)


class PopulationTuner(keras_tuner.Tuner):
    """A keras-tuner tuner that trains many trials in one compiled program.

    In a search over small or deep nets, most of the time goes into building, tracing and saving,
    not into training. This tuner compiles a model once for all trials that differ only in mutable
    hyperparameters, and trains several of them at a time. Everything else is keras-tuner's: the
    builder, the oracles, `search`, resumption, `get_best_models`.

    **Compiled once.** Each trial's model is built by the builder, and compared with the models
    compiled before in everything that a training step can depend on: classes, configurations,
    graph, loss, metrics, the code of functions and their closures. If only mutable hyperparameters
    differ, the compiled model is reused, with the trial's hyperparameters and weights. Mutable are
    the rate of `kerastools.layers.Dropout`; learning rate, momentum, betas, epsilon, weight decay
    and clipping thresholds of `kerastools.optimizers`; the learning rate of Keras's optimizers; on
    TensorFlow the factors of L1 and L2 and the bound of MaxNorm; and initializers and seeds. For
    any other hyperparameter (units, depth, an activation, the rate of Keras's `Dropout`), a model
    is compiled for each value, as in keras-tuner. `tuner.how_trained[trial_id]` says for every
    trial what was done, and why.

    **Trained together.** Trials of one structure are trained `population` at a time, in one program
    with a slot for each of them. A slot whose trial is done, stopped or diverged is refilled at
    once. Trials in a population see the same batches. The data must be NumPy arrays, and the
    only callbacks `EarlyStopping` and `TerminateOnNaN`. On JAX, Keras's own step is vectorized over
    the trials, for any model. On TensorFlow, the model is a graph of layers of Keras and kerastools
    (without masks of time steps, dropout or state in recurrent layers, and activity regularizers)
    with `kerastools.optimizers.SGD`, `Adagrad`, `RMSprop`, `Adam`, `Nadam`, `Adamax` or `RAdam`.
    Where steps are so long that training together may not pay, one trial is trained alone, and the
    faster way is used from then on. All other trials are trained one after the other.

    **Results.** A trial gives the result of a model built for it alone: bit-identical if trials are
    trained one after the other, up to rounding if they are trained together. A trial whose builder
    raises or whose loss becomes NaN is marked as failed, with a warning, and the search goes on; it
    raises when all trials failed. Each trial calls `keras.utils.set_random_seed` with its own seed,
    derived from `seed`. Files are written atomically: after Ctrl-C or a kill, the same script
    resumes the search.

    Args:
        hypermodel: A `keras_tuner.HyperModel`, or a function that takes hyperparameters and returns
            a compiled model. A `Sequential` may lack `keras.Input` where the data are an array.
        objective: Name of the metric to optimize, such as `"val_accuracy"`, a
            `keras_tuner.Objective` or a list of them.
        max_trials: Total number of trials, including those of an interrupted search.
        population: Maximum number of trials trained together; with 1, one after the other.
        halving: `SuccessiveHalving(...)` to stop bad trials early; by default every trial is
            trained for all epochs.
        seed: Integer >= 0 that seeds configurations, weights and batches. With `None`, a new one
            each time.
        oracle: A `keras_tuner.Oracle` that chooses the configurations, instead of random search;
            pass `objective` and `max_trials` to it. HyperbandOracle is not supported.
        directory: Directory of the search's files, on a local disk.
        project_name: Name of the subdirectory.
        overwrite: Whether to delete an existing search instead of resuming it. An existing study in
            a `storage` is not deleted; it raises, because other processes may be using it.
        **kwargs: Other arguments of `keras_tuner.Tuner`, such as `executions_per_trial` and
            `max_model_size`, and of `keras_tuner.RandomSearch`, such as `hyperparameters` and
            `tune_new_entries`; with an `oracle`, pass the latter to it.

    Raises:
        TypeError: From `search`, if the builder returns no model.
        ValueError: If `seed` is negative, an argument of the oracle is passed with `oracle`, or
            `overwrite` would delete a study in a storage; from `search`, before the first trial, if
            the model is not compiled, the objective is not reported, there is nothing to search, or
            the directory holds another search.
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
    >>> held_out = x[48:], y[48:, :1]
    >>> directory = tempfile.mkdtemp()
    >>> tuner = PopulationTuner(build, "val_loss", max_trials=3, seed=0, directory=directory)
    >>> tuner.search(x[:48], y[:48, :1], validation_data=held_out, epochs=2, verbose=0)
    >>> tuner.how_trained["1"]
    'one of 3 trained together, newly compiled'
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
            # A row of diverged trials is no reason to stop.
            patient = {"max_consecutive_failed_trials": max_trials + 1}
            oracle = keras_tuner.oracles.RandomSearchOracle(
                max_trials=max_trials, seed=decorrelated_seed(seed), **patient | of_oracle
            )
        elif of_oracle:
            raise ValueError(
                f"PopulationTuner takes {', '.join(of_oracle)} from the oracle. Received "
                f"{', '.join(f'{name}={value!r}' for name, value in of_oracle.items())} with "
                f"oracle={type(oracle).__name__}. Pass it to the oracle instead."
            )
        elif isinstance(oracle, keras_tuner.oracles.HyperbandOracle):
            raise ValueError(
                "PopulationTuner does not support HyperbandOracle, which resumes trials. Use "
                "keras_tuner.Hyperband, or another oracle."
            )
        require_at_least(1, "PopulationTuner", population=population)
        if overwrite and isinstance(oracle, OptunaOracle):
            oracle.require_no_study(project_name or "untitled_project")
        self.population = population
        self.seed = decorrelated_seed(seed)
        self.how_trained: dict[str, str] = {}
        self._cache = ModelCache()
        self._alone_because: dict[str, str] = {}
        shared = {"share": oracle.share} if isinstance(oracle, OptunaOracle) else {}
        self._rungs = Rungs(halving, oracle.objective, **shared)
        self._timer = EpochTimer()
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
        """Runs the remaining trials.

        Args:
            *fit_args: Positional arguments of `model.fit`: the data.
            **fit_kwargs: Other arguments of `model.fit`: `validation_data`, `epochs`, `batch_size`,
                `callbacks` ... `verbose=0` prints nothing, 1 (the default) a line for each trial, 2
                Keras's output, too.
        """
        verbose = fit_kwargs.pop("verbose", 1)
        verbose = 1 if verbose == "auto" else int(verbose)
        self._check(dict(zip(("x", "y"), fit_args, strict=False)) | fit_kwargs)
        self.save()  # From here on the search can be resumed.
        self._progress = Progress(self.oracle) if verbose else None
        self.oracle.verbose = max(0, verbose - 1)
        with warnings.catch_warnings(), _released(self.oracle):
            # keras-tuner uses deprecated methods of threading.
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
                if alone is not None and self.population > 1:
                    notify(f"Trials are trained one after the other, because {alone}.")
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
        because = self._alone_because.pop(trial.trial_id, None)
        histories = []
        for execution in range(self.executions_per_trial):
            own = copied_callbacks(self, callbacks)
            if any(isinstance(callback, keras.callbacks.TensorBoard) for callback in own):
                log_apart(self, own, trial, execution)
            stop = StopAtRung(self._rungs, trial.trial_id, best)
            own += [self._hooks(trial), best, *([stop] if execution == 0 else []), self._timer]
            fresh = self._prepared.pop(trial.trial_id, None) or self._build(trial, execution)
            if isinstance(fresh, Exception):
                self.how_trained[trial.trial_id] = f"alone, because {because}"
                raise fresh
            model, how = self._cache.compiled(fresh)
            how += f"; alone, because {because}" if because and execution == 0 else ""
            self.how_trained[trial.trial_id] = how
            keras.utils.set_random_seed(self._trial_seed(trial, execution))
            try:
                history = self.hypermodel.fit(
                    trial.hyperparameters, model, *args, **{**kwargs, "callbacks": own}
                )
            except BaseException:
                self._cache.drop(model)
                raise
            self._cache.check(model)
            _require_numbers(history)
            require_reported(self.oracle.objective, history)
            histories.append(history)
            if stop.stopped:
                stopped = f", stopped after {stop.stopped} epochs by successive halving"
                self.how_trained[trial.trial_id] += stopped
                break
        if best.arrays:
            write_json(self._build_config_path(trial), model.get_build_config())
            write_arrays(self._checkpoint_path(trial), best.arrays)
        return histories

    def load_model(self, trial: Any) -> keras.Model:
        """Returns the trial's model and its optimizer in the state of its best epoch."""
        model = self._build(trial)
        if not model.built:
            with open(self._build_config_path(trial)) as file:
                model.build_from_config(json.load(file))
        arrays = read_arrays(self._checkpoint_path(trial))
        for variable, array in zip(state_of(model), arrays, strict=True):
            variable.assign(array)
        return model

    def on_trial_end(self, trial: Any) -> None:
        """Records the trial, and warns if it failed."""
        super().on_trial_end(trial)
        if trial.status in ("FAILED", "INVALID"):
            warnings.warn(f"Trial {trial.trial_id} failed: {_last_line(trial)}", stacklevel=2)
        if self._progress is not None:
            self._progress.show(trial, self.how_trained.get(trial.trial_id, ""))

    def save(self) -> None:
        """Writes the state of the search."""
        if not is_worker(self):
            self.oracle.save()
        write_json(state_file(self), self.get_state())

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
        """Returns the state that a resumed search needs."""
        objective = str(self.oracle.objective)
        return {
            "seed": self.seed,
            "objective": objective,
            "rungs": self._rungs.state(),
            "input_shape": self._input_shape,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restores what `get_state` returned."""
        if state.get("objective") != str(self.oracle.objective):
            raise ValueError(
                f"PopulationTuner found another search in {self.project_dir!r}, with objective "
                f"{state.get('objective')}; this one has {self.oracle.objective}. Choose another "
                "directory or project_name, or pass overwrite=True to delete that one."
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
        notify_if_nothing_is_mutable(model, self._build_once, space)

    def _ask(self, hp: keras_tuner.HyperParameters) -> None:
        """Adds all hyperparameters of the search to `hp`."""
        hp.merge(self._given_space)
        self.hypermodel.build(hp if self.oracle.tune_new_entries else hp.copy())

    def _finish(self, fit: dict[str, Any], member: Member, state: list[Any] | None) -> float | None:
        """Ends a trial that was trained in a population, or trains it alone and ends it."""
        if state is None:
            self._alone_because[member.name] = member.alone_because or ""
            # With the user's own code, a model is built when it is trained, not ahead.
            if not has_user_code(member.description):
                self._prepared[member.name] = member.model
        else:
            self.how_trained[member.name] = member.how_trained
            self._trained[member.name] = (member.history, state)
        self._timer = EpochTimer()
        run_trial(self, member.trial, **fit, verbose=0)
        self.on_trial_end(member.trial)
        return self._timer.seconds

    def _build(
        self,
        trial: Any,
        execution: int = 0,
        set_seed: Callable[[int], None] = keras.utils.set_random_seed,
    ) -> keras.Model:
        """Returns the model that the builder makes for a trial."""
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
        return with_input(build_model(self, hp), self._input_shape)

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
    """Releases the running trials of a shared search on an exception."""
    try:
        yield
    except BaseException:
        if isinstance(oracle, OptunaOracle):
            oracle.release()
        raise


def _require_numbers(history: Any) -> None:
    """Raises if the loss is not finite in some epoch."""
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
    """Returns the shape of batches of `x`, or `None` if it is not a numeric array."""
    if isinstance(x, np.ndarray) and x.ndim > 1 and x.dtype.kind in "biuf":
        return (None, *x.shape[1:])
    return None


def with_input(model: Any, shape: tuple[int | None, ...] | None) -> Any:
    """Returns `model`, built for batches of `shape` if it is a `Sequential` without `keras.Input`.

    Its weights are those that `fit` would have drawn: Keras's initializers and dropout layers draw
    their seeds when they are created, not when they are built.
    """
    if shape is not None and isinstance(model, keras.Sequential) and not model.built:
        model.build(shape)
    return model


class Progress:
    """Prints the progress of a search: trials done and running, best score, time left.

    Includes the trials of other processes on the same search.
    """

    def __init__(self, oracle: Any) -> None:
        self.oracle = oracle
        self.started = time.perf_counter()
        self.before = len(oracle.end_order)

    def show(self, trial: Any, how_trained: str) -> None:
        """Prints one line at the end of `trial`."""
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
            + f"  ({how_trained})",
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
