"""A keras-tuner tuner that compiles a model once for all trials that differ in numbers only."""

import json
import os
import warnings
from dataclasses import dataclass
from typing import Any

import keras
import keras_tuner
import numpy as np

from kerastools._core._stacked_keras import count_names_anew
from kerastools.search._checks import (
    require_compiled_model,
    require_live,
    require_objective,
    require_same_space,
)
from kerastools.search._description import Description, describe
from kerastools.search._live_models import BestState, LiveModels, state_of
from kerastools.search._progress import Progress
from kerastools.search._spread_seed import spread_seed
from kerastools.search._stacking import (
    bound_fit_arguments,
    why_model_cannot_stack,
    why_search_cannot_stack,
)
from kerastools.search._state_files import (
    drop_unrecorded,
    read_arrays,
    save_atomically,
    write_arrays,
    write_json,
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
    and clip thresholds of `kerastools.optimizers`; the learning rate of Keras's own optimizers;
    initializers and seeds. A hyperparameter that changes anything else beside them (units, depth,
    an activation, Keras's own `Dropout`) has a model compiled for each of its values, as in
    keras-tuner. `tuner.ways[trial_id]` says for every trial which it was, and why.

    On TensorFlow, trials of one structure are also trained together, `population` at a time, in one
    program that holds the weights of all: where the net is a graph of Dense, BatchNormalization,
    activation, Flatten and `kerastools.layers.Dropout` layers with `kerastools.optimizers.SGD` or
    `Adam`, and `search` is given NumPy arrays and no callbacks. Anything else is trained one trial
    after the other. All trials then see the same batches in the same order.

    A trial's result is that of a model built for it alone: to the bit where one is trained after
    the other, up to rounding where they are trained together. A trial whose builder raises or whose
    loss becomes NaN is marked as failed, with a warning, and the search goes on; it raises when all
    have failed. Trials begin with `keras.utils.set_random_seed` at seeds of their own, spread from
    `seed`. State files are whole at any moment: after Ctrl-C or a kill the same script goes on with
    the trials that were not finished.

    Args:
        hypermodel: A `keras_tuner.HyperModel`, or a function that takes hyperparameters and returns
            a compiled model.
        objective: Name of what is optimised, such as `"val_accuracy"`, a `keras_tuner.Objective` or
            a list of them.
        max_trials: Number of trials in all, those of an interrupted search included.
        population: How many trials are trained together, at most; with 1, one after the other.
        seed: Integer from 0 from which configurations, weights and batches are drawn; by default
            new for each search.
        oracle: A `keras_tuner.Oracle` that chooses the configurations, in place of random search;
            `objective` and `max_trials` are then given to it. Not Hyperband's.
        directory: Folder of the search's files, on a local disk.
        project_name: Name of the folder in it.
        overwrite: Whether to delete a search that is there, instead of going on with it.
        **kwargs: `executions_per_trial`, `max_model_size` and the others of `keras_tuner.Tuner`.

    Raises:
        TypeError: From `search`, if the builder returns no model.
        ValueError: If `seed` is negative, or `objective` stands beside `oracle`; from `search`, if
            the model is not compiled, the objective will not be reported, no hyperparameter is
            live, or the directory holds another search. All before the first trial.
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
        seed: int | None = None,
        oracle: keras_tuner.Oracle | None = None,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        overwrite: bool = False,
        **kwargs: Any,
    ) -> None:
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        if oracle is None:
            oracle = keras_tuner.oracles.RandomSearchOracle(
                objective=objective,
                max_trials=max_trials,
                seed=spread_seed(seed),
                # A run of diverged trials is no reason to stop.
                max_consecutive_failed_trials=max_trials + 1,
            )
        elif objective is not None:
            raise ValueError(
                "PopulationTuner takes the objective from the oracle. Received "
                f"objective={objective!r} beside oracle={type(oracle).__name__}: give it to that."
            )
        elif isinstance(oracle, keras_tuner.oracles.HyperbandOracle):
            raise ValueError(
                "PopulationTuner cannot resume the trials that HyperbandOracle promotes. Use "
                "keras_tuner.Hyperband, or another oracle."
            )
        if population < 1:
            raise ValueError(f"PopulationTuner needs population >= 1. Received {population}.")
        self.population = population
        self.seed = spread_seed(seed)
        self.ways: dict[str, str] = {}
        self._live = LiveModels()
        self._together: list[tuple[Description, Any]] = []
        self._prepared: dict[str, Any] = {}
        self._trained: dict[str, tuple[Any, list[np.ndarray]]] = {}
        self._progress: Progress | None = None
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
        self._check(fit_kwargs)
        self.save()  # From now on the search can be resumed.
        self._progress = Progress(self.oracle) if verbose else None
        self.oracle.verbose = max(0, verbose - 1)
        with warnings.catch_warnings():
            # keras-tuner locks with methods that Python renamed long ago.
            warnings.filterwarnings("ignore", "currentThread|getName", DeprecationWarning)
            alone = why_search_cannot_stack(self, fit_args, fit_kwargs)
            if alone is None and self.population > 1:
                self._search_together(bound_fit_arguments(fit_args, fit_kwargs) or {})
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
            own += [self._hooks(trial), best]
            fresh = self._prepared.pop(trial.trial_id, None) or self._build(trial, execution)
            if isinstance(fresh, Exception):
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
            histories.append(history)
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
        require_same_space(self.hypermodel.build, self.oracle, self.project_dir)

    def get_state(self) -> dict[str, Any]:
        """Returns what a resumed search goes on with."""
        return {"seed": self.seed, "objective": str(self.oracle.objective)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over what `get_state` returned."""
        if state.get("objective") != str(self.oracle.objective):
            raise ValueError(
                f"PopulationTuner found another search in {self.project_dir!r}, with objective "
                f"{state.get('objective')}; this one has {self.oracle.objective}. Give it a "
                "directory or project_name of its own, or pass overwrite=True to delete that one."
            )
        self.seed = state["seed"]

    def _check(self, fit_kwargs: dict[str, Any]) -> None:
        space = self.oracle.get_space()
        model = self._build_once(space.copy())
        require_compiled_model(model)
        require_objective(self, model, fit_kwargs)
        require_live(self._build_once, space)

    def _search_together(self, fit: dict[str, Any]) -> None:
        """Draws trials, and trains those of one structure together."""
        self.on_search_begin()
        waiting: list[_Member] = []
        while self._draw(waiting):
            group = _largest_group(waiting)[: self.population]
            for member in group:
                waiting.remove(member)
            if group:
                self._train_together(group, fit)
            for member in group:
                self._try_run_and_update_trial(member.trial, **fit, verbose=0)
                self.on_trial_end(member.trial)
        self.on_search_end()

    def _draw(self, waiting: list["_Member"]) -> bool:
        """Draws trials until a group is full, at most twice the population; false at the end."""
        while len(_largest_group(waiting)) < self.population > len(waiting) / 2:
            taken = {member.place for member in waiting}
            place = next(i for i in range(len(taken) + 1) if i not in taken)
            trial = self.oracle.create_trial(f"{self.tuner_id}-{place}")
            if trial.status == "STOPPED":
                return bool(waiting)
            if trial.status == "IDLE":
                return True
            self.on_trial_begin(trial)
            try:
                model: Any = self._build(trial)
                waiting.append(_Member(trial, place, model, describe(model)))
            except keras_tuner.errors.FatalError:
                raise
            except Exception as error:
                waiting.append(_Member(trial, place, error, {"builder raised": id(error)}))
        return True

    def _train_together(self, group: list["_Member"], fit: dict[str, Any]) -> None:
        """Trains the models of `group` at once, or prepares training one after the other."""
        first, number = group[0], len(group)
        known = [s for description, s in self._together if description == first.description]
        reason = None
        if isinstance(first.model, Exception):
            reason = "it cannot be built"
        elif not known and number == 1:
            reason = "it is the only one of its kind"
        elif not known:
            reason = why_model_cannot_stack(first.model)
        if reason is None:
            try:
                stacked = known[0] if known else self._stack(first)
                histories, arrays = self._fit_together(stacked, [m.model for m in group], fit)
            except Exception as error:
                self._together = [pair for pair in self._together if pair[0] != first.description]
                reason = f"training together failed: {error!r}"
                warnings.warn(f"Trained one after the other: {reason}", stacklevel=3)
        for i, member in enumerate(group):
            name = member.trial.trial_id
            if reason is None:
                self._trained[name] = (histories[i], arrays[i])
                kind = "in a program compiled before" if known else "newly compiled"
                self.ways[name] = f"one of {number} trained together, {kind}"
            else:
                self._prepared[name] = member.model
                self.ways[name] = f"; alone, because {reason}"

    def _stack(self, member: "_Member") -> Any:
        from kerastools.search._stacked_model import StackedModel

        stacked = StackedModel(member.model, self.population)
        self._together = [*self._together[-3:], (member.description, stacked)]
        return stacked

    def _fit_together(
        self, stacked: Any, models: list[Any], fit: dict[str, Any]
    ) -> tuple[list[Any], list[list[np.ndarray]]]:
        """Returns the history and the best state of each model."""
        objective = self.oracle.objective
        # Places that are not needed train the first model once more.
        stacked.load([*models, *[models[0]] * (self.population - len(models))])
        histories = [_History() for _ in models]
        best = np.full(self.population, np.nan)
        seed = int(np.random.SeedSequence([self.seed, 0]).generate_state(1)[0])
        for logs in stacked.fit(**fit, seed=seed):
            values = [float(objective.get_value(log)) for log in logs]
            improved = np.array(
                [
                    not np.isnan(value) and (np.isnan(old) or objective.better_than(value, old))
                    for value, old in zip(values, best, strict=True)
                ]
            )
            best = np.where(improved, values, best)
            stacked.remember(improved)
            for history, log in zip(histories, logs, strict=False):
                history.add(log)
        return histories, stacked.best_arrays()

    def _build(self, trial: Any, execution: int = 0) -> keras.Model:
        """Returns the trial's model as the builder makes it."""
        keras.utils.set_random_seed(self._trial_seed(trial, execution))
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
        return self._build_hypermodel(hp)

    def _trial_seed(self, trial: Any, execution: int) -> int:
        name = str(trial.trial_id)
        number = [int(name)] if name.isdecimal() else list(name.encode())
        sequence = np.random.SeedSequence([self.seed, execution, *number])
        return int(sequence.generate_state(1)[0])

    def _hooks(self, trial: Any) -> keras.callbacks.Callback:
        hooks = (type(self).on_batch_begin, type(self).on_batch_end)
        stock = (keras_tuner.Tuner.on_batch_begin, keras_tuner.Tuner.on_batch_end)
        return (_Hooks if hooks == stock else _BatchHooks)(self, trial)

    def _require_a_success(self) -> None:
        trials = [self.oracle.trials[name] for name in self.oracle.end_order]
        if trials and all(trial.status == "FAILED" for trial in trials):
            raise RuntimeError(
                f"All {len(trials)} trials of the search failed. The first: {trials[0].message}"
            )

    def _checkpoint_path(self, trial: Any) -> str:
        return os.path.join(self.get_trial_dir(trial.trial_id), "checkpoint.npz")

    def _build_config_path(self, trial: Any) -> str:
        return os.path.join(self.get_trial_dir(trial.trial_id), "build_config.json")


@dataclass(eq=False)
class _Member:
    """A trial that waits for others of its structure; its model, or why it cannot be built."""

    trial: Any
    place: int
    model: Any
    description: Description


def _largest_group(waiting: list[_Member]) -> list[_Member]:
    """Returns the members of the structure that most of them have."""
    groups: list[list[_Member]] = []
    for member in waiting:
        for group in groups:
            if group[0].description == member.description:
                group.append(member)
                break
        else:
            groups.append([member])
    return max(groups, key=len, default=[])


class _History(keras.callbacks.History):
    """The history of a model that `fit` has not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []

    def add(self, log: dict[str, float]) -> None:
        """Adds what one epoch reports."""
        self.epoch.append(len(self.epoch))
        for name, value in log.items():
            self.history.setdefault(name, []).append(value)


class _Hooks(keras.callbacks.Callback):
    """Calls the tuner's own hooks, which a subclass may use."""

    def __init__(self, tuner: PopulationTuner, trial: Any) -> None:
        super().__init__()
        self.tuner = tuner
        self.trial = trial

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.tuner.on_epoch_begin(self.trial, self.model, epoch, logs=logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.tuner.on_epoch_end(self.trial, self.model, epoch, logs=logs)


class _BatchHooks(_Hooks):
    """The hooks of single batches, too, which cost time."""

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.tuner.on_batch_begin(self.trial, self.model, batch, logs)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.tuner.on_batch_end(self.trial, self.model, batch, logs)


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
