"""`OptunaOracle`: Optuna's samplers as a keras-tuner oracle, for one process or many."""

import os
import time
import warnings
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

from kerastools._core.keras_private.tuner import project_of, show_begin, show_end
from kerastools.search._oracle.space import difference, suggest

# Draws without a new configuration after which the space counts as exhausted.
_DRAWS = 20
_NOT_A_NUMBER = "the objective is NaN"


class OptunaOracle(keras_tuner.Oracle):
    """keras-tuner oracle that chooses trials by an Optuna sampler, in one process or many.

    The default sampler is the tree-structured Parzen estimator, which finds better configurations
    than random search in 25, 50 and 100 trials (`benchmarks/oracles.py`). Running trials count as
    bad ones, so that the suggestions of a population differ. A hyperparameter in a conditional
    scope is sampled only if its condition holds. No configuration is tried twice.

    The state of the search is an Optuna study, written continuously: a search that is stopped at
    any point can be resumed, with the finished trials kept and the unfinished ones repeated.
    Without `storage` it is a file in the tuner's directory, for one process at a time. With a
    storage, any number of processes on any number of machines share the search, each started by the
    same script, at any time:

        # once, on a machine that all can reach (PostgreSQL 12 or newer)
        createdb search
        # on each machine, once per free core
        python my_search.py      # OptunaOracle(..., storage="postgresql://user@host/search")

    and `kerastools search module:build data.npz --storage postgresql://user@host/search` does the
    same from the command line. On one machine `storage="sqlite:///search.db"` needs no server.
    The search is fault-tolerant. Each process sends a heartbeat every `heartbeat` seconds. A trial
    whose process sent none for `grace` seconds is repeated by another process, with the same values
    and seed, up to three times; no trial counts twice. After Ctrl-C it is repeated at once: see
    `release`. If the database does not answer, the processes wait for up to ten minutes. Pass the
    same `seed`, data and `max_trials`, the total of all processes, everywhere, and a shared
    `directory` if the best models are to be loaded on any machine. A study in a `storage` is never
    deleted: `PopulationTuner(overwrite=True)` raises if there is one, and other tuners resume it.

    Args:
        objective: Name of the metric to optimize, such as `"val_accuracy"`, a
            `keras_tuner.Objective` or a list of them.
        max_trials: Total number of trials of all processes, including those of an interrupted
            search.
        sampler: A function that takes an integer seed and returns a sampler, such as
            `lambda seed: optuna.samplers.CmaEsSampler(seed=seed)`; it is called for every trial. Or
            a sampler. The default one stores no pickles in the database; CmaEsSampler unpickles
            its state from it, so use that only with a database you trust.
        storage: URL of a database, or an Optuna storage with heartbeats.
        seed: Integer >= 0. Trial i is sampled with `SeedSequence([seed, i])`, given the results
            before it. With `None`, a new one each time.
        study_name: Name of the study in the database; by default the tuner's `project_name`.
        heartbeat: Seconds between heartbeats.
        grace: Seconds without a heartbeat after which a process counts as dead.
        **kwargs: Other arguments of a keras-tuner oracle, such as `max_retries_per_trial` (further
            runs of a trial that raised, 0 by default) and `max_consecutive_failed_trials` (after
            which the search ends with an error, 3 by default; trials whose objective is NaN do not
            count).

    Raises:
        ImportError: If Optuna or the driver of the database is missing.
        ValueError: If `seed` is negative, `sampler` is not a sampler, or `storage` has no
            heartbeats; from a tuner's `search`, if the study belongs to another search.
        ConnectionError: From a tuner's `search`, if the database cannot be reached.

    Example:

    >>> from keras_tuner.engine.base_tuner import BaseTuner
    >>> oracle = OptunaOracle("val_loss", max_trials=2, seed=0)
    >>> def build(hp):
    ...     return float(hp.Float("x", -1.0, 1.0))
    >>> class Parabola(BaseTuner):
    ...     def run_trial(self, trial, verbose=0):
    ...         return {"val_loss": self.hypermodel.build(trial.hyperparameters) ** 2}
    >>> import tempfile
    >>> tuner = Parabola(oracle, build, directory=tempfile.mkdtemp())
    >>> tuner.search(verbose=0)
    >>> [trial.status for trial in oracle.trials.values()]
    ['COMPLETED', 'COMPLETED']

    Reference: Akiba et al., "Optuna: a next-generation hyperparameter optimization framework", KDD
    2019; Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011.
    """

    hyperparameters: keras_tuner.HyperParameters
    trials: dict[str, Trial]
    ongoing_trials: dict[str, Trial]

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = 10,
        sampler: Any = None,
        storage: Any = None,
        seed: int | None = None,
        study_name: str | None = None,
        heartbeat: int = 15,
        grace: int = 60,
        **kwargs: Any,
    ) -> None:
        try:
            from optuna.samplers import BaseSampler, TPESampler
        except ImportError as error:
            raise ImportError(
                "OptunaOracle needs Optuna. Install it: pip install 'kerastools[search]'."
            ) from error
        if seed is not None and seed < 0:
            raise ValueError(f"OptunaOracle needs seed >= 0, an integer. Received seed={seed}.")
        if sampler is None:
            sampler = lambda seed: TPESampler(seed=seed)  # noqa: E731
        if not callable(sampler) and not isinstance(sampler, BaseSampler):
            raise ValueError(
                "OptunaOracle needs an Optuna sampler, or a function that takes a seed and "
                f"returns one. Received sampler={sampler!r}."
            )
        if not 0 < heartbeat < grace:
            raise ValueError(
                f"OptunaOracle needs 0 < heartbeat < grace. Received heartbeat={heartbeat} and "
                f"grace={grace} seconds."
            )
        super().__init__(objective=objective, max_trials=max_trials, **kwargs)
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.sampler = sampler
        self.storage = storage
        self.study_name = study_name
        self.heartbeat = heartbeat
        self.grace = grace
        self._study: Any = None

    # What keras-tuner asks of an oracle --------------------------------------------------------

    def create_trial(self, tuner_id: str) -> Trial:
        """Returns the next trial, or one with status STOPPED or IDLE if there is none."""
        if tuner_id in self.ongoing_trials:
            return self.ongoing_trials[tuner_id]
        from kerastools.search._oracle.shared_study import NoTrial

        study = self._connected()
        for ongoing in self.ongoing_trials.values():
            self._learn_space(ongoing)  # Its builder may have defined new hyperparameters.
        usual, draws = study.study.sampler, 1
        try:
            begun = study.begin(self.max_trials, lambda t: suggest(t, self.hyperparameters))
            while not isinstance(begun, NoTrial) and self._tried(*begun):
                study.discard(begun[0])
                if draws == _DRAWS:
                    begun = NoTrial.STOPPED
                    break
                draws += 1
                study.study.sampler = self._random_sampler()
                begun = study.begin(self.max_trials, lambda t: suggest(t, self.hyperparameters))
        finally:
            study.study.sampler = usual
        if isinstance(begun, NoTrial):
            self._refresh()
            if begun is NoTrial.IDLE and not self.ongoing_trials:
                time.sleep(min(1.0, self.heartbeat / 4))  # The tuner asks again at once.
            return Trial(self._hyperparameters({}), "none", begun.value)
        number, values = begun
        trial = Trial(self._hyperparameters(values), self._name(number))
        self.ongoing_trials[tuner_id] = trial
        self._refresh()
        show_begin(self, trial)
        return trial

    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Trial:
        """Records the metrics of a trial."""
        with warnings.catch_warnings():
            # keras-tuner uses deprecated methods of threading.
            warnings.filterwarnings("ignore", "currentThread|getName", DeprecationWarning)
            return super().update_trial(trial_id, metrics, step)

    def end_trial(self, trial: Trial) -> None:
        """Records the result of a trial."""
        own = self.trials[trial.trial_id]
        number = int(own.trial_id)
        invalid = trial.status == "INVALID"  # keras-tuner's word for a failure to try again
        if invalid and self._study.retries(number) < self.max_retries_per_trial:
            self._study.end_to_retry(number)
            self.ongoing_trials = {k: t for k, t in self.ongoing_trials.items() if t is not own}
            self._refresh()
            return
        own.hyperparameters, own.message = trial.hyperparameters, trial.message
        own.status = "COMPLETED" if trial.status == "COMPLETED" else "FAILED"
        if own.status == "COMPLETED":
            self.score_trial(own)
            if np.isnan(own.score):
                own.status, own.message = "FAILED", _NOT_A_NUMBER
        self._learn_space(own)
        done = own.status == "COMPLETED"
        result = {"values": own.hyperparameters.values, "best_step": own.best_step}
        result |= {"metrics": own.metrics.get_config()}
        result |= {} if done else {"message": (own.message or "failed")[-2000:]}
        self._study.end(number, float(own.score) if done else None, **result)
        self.ongoing_trials = {k: t for k, t in self.ongoing_trials.items() if t is not own}
        del self.trials[own.trial_id]  # The study counts: another process may have been faster.
        self._refresh()
        show_end(self, own, saved=self.trials.get(own.trial_id, own))
        trial.status, trial.message = own.status, own.message
        self._require_no_row_of_failures()

    def share(self, epoch: int, best: dict[str, float]) -> dict[str, float]:
        """Records values after an epoch; returns those of the trials of all processes, by name."""
        for name, value in best.items():
            self._study.report(int(name), epoch, float(value))
        return {self._name(n): value for n, value in self._study.reported(epoch).items()}

    def release(self) -> None:
        """Releases the running trials of this process, so that any process can repeat them at once.

        `PopulationTuner` calls it if its search ends by an exception or Ctrl-C. With another tuner,
        call it yourself, or search again in the same thread; otherwise the trials count as running
        as long as the process lives.
        """
        self.ongoing_trials = {}
        if self._study is not None:
            self._study.release()

    def get_state(self) -> dict[str, Any]:
        """Returns the state that keras-tuner saves; the study is what counts."""
        self._connected()
        return super().get_state()

    def reload(self) -> None:
        """Loads trials and search space from the study."""
        self._connected(must_exist=True)

    def require_no_study(self, project_name: str) -> None:
        """Raises if the study of a project is in the storage, where others may be using it."""
        if self.storage is None:
            return  # The study is a file in the directory of the project.
        import optuna

        from kerastools.search._oracle.shared_study import storage_for

        storage = storage_for(self.storage, self.heartbeat, self.grace, "")
        name = self.study_name or project_name
        if name in optuna.study.get_all_study_names(storage):
            url = getattr(getattr(storage, "engine", None), "url", storage)  # Without password.
            raise ValueError(
                f"overwrite=True does not delete study {name!r} in the storage, because other "
                "processes may be using it. If none is, delete it: optuna.delete_study("
                f"study_name={name!r}, storage='{url!r}'). Or choose another project_name or "
                "study_name, or resume the study, without overwrite=True."
            )

    # The study ---------------------------------------------------------------------------------

    def _connected(self, must_exist: bool = False) -> Any:
        if self._study is not None:
            return self._study
        import optuna

        from kerastools.search._oracle.shared_study import PerTrialSampler, SharedStudy, storage_for

        directory, project_name = project_of(self)
        file = os.path.join(directory, "optuna.journal")
        storage = storage_for(self.storage, self.heartbeat, self.grace, file)
        name = self.study_name or project_name
        if must_exist and name not in optuna.study.get_all_study_names(storage):
            raise ValueError(
                f"OptunaOracle found a search in {directory!r} whose study {name!r} is not "
                "in the storage: it was made with another oracle or storage, or deleted. Choose "
                "another directory or project_name, or pass overwrite=True."
            )
        study = SharedStudy(storage, name, f"{self.objective.direction}imize")
        notes = study.notes()
        space = keras_tuner.HyperParameters.from_config(
            notes.get("space", self.hyperparameters.get_config())
        )
        self._require_same_search(name, notes, space)
        study.take_over()
        if "objective" not in notes:
            study.note("seed", self.seed)
            study.note("space", self.hyperparameters.get_config())
            study.note("objective", str(self.objective))
        self.seed = notes.get("seed", self.seed)
        self.hyperparameters = space
        study.study.sampler = (
            PerTrialSampler(self.sampler, self.seed) if callable(self.sampler) else self.sampler
        )
        self._study = study
        self._refresh()
        return study

    def _learn_space(self, trial: Trial) -> None:
        known = len(self.hyperparameters.space)
        self.update_space(trial.hyperparameters)
        if len(self.hyperparameters.space) > known:
            self._study.note("space", self.hyperparameters.get_config())

    def _require_same_search(self, name: str, notes: dict[str, Any], space: Any) -> None:
        objective = str(self.objective)
        if notes.get("objective", objective) != objective:
            raise ValueError(
                f"OptunaOracle found another search in study {name!r}, with objective "
                f"{notes['objective']}; this one has {objective}. Choose another project_name or "
                "study_name."
            )
        if (unlike := difference(space, self.hyperparameters)) is not None:
            raise ValueError(
                f"OptunaOracle found another search in study {name!r}: {unlike}. Choose another "
                "project_name or study_name."
            )

    def _require_no_row_of_failures(self) -> None:
        """Raises, as keras-tuner does, if the last trials all failed; divergence is no failure."""
        limit = self.max_consecutive_failed_trials
        last = [self.trials[name] for name in self.end_order[-limit:]]
        failed = [t for t in last if t.status == "FAILED" and t.message != _NOT_A_NUMBER]
        if len(failed) == limit:
            raise RuntimeError(
                f"Number of consecutive failures exceeded the limit of {limit}.\n"
                f"{failed[-1].message}"
            )

    def _refresh(self) -> None:
        """Updates the trials with the results of all processes."""
        from kerastools.search._oracle.shared_study import Outcome, attempt_that_counts, outcome

        ongoing = {t.trial_id: t for t in self.ongoing_trials.values()}
        trials, ends = {}, []
        for number, attempts in sorted(self._study.attempts().items()):
            name, now = self._name(number), outcome(attempts)
            if now in (Outcome.WAITING, Outcome.LOST):
                continue
            if name in ongoing:
                trials[name] = ongoing[name]
                continue
            attempt = attempt_that_counts(attempts)
            if now is not Outcome.RUNNING:
                ends.append((attempt.datetime_complete, name))
            before = self.trials.get(name)
            if before is not None and before.status == now.value:
                trials[name] = before
                continue
            trials[name] = self._trial(name, now.value, attempt)
        self.trials = trials
        self.start_order = list(trials)
        self.end_order = [name for _, name in sorted(ends)]

    def _trial(self, name: str, status: str, attempt: Any) -> Trial:
        kept = attempt.user_attrs
        trial = Trial(
            self._hyperparameters(kept.get("values", kept.get("drawn", {}))), name, status
        )
        state = trial.get_state() | {"best_step": kept.get("best_step", 0)}
        state |= {"metrics": kept.get("metrics", state["metrics"])}
        state["message"] = kept.get("message")
        if status == "COMPLETED":
            state["score"] = attempt.value
        elif status == "FAILED" and state["message"] is None:
            state["message"] = "every process that ran it died"
        trial.set_state(state)
        return trial

    def _hyperparameters(self, values: dict[str, Any]) -> keras_tuner.HyperParameters:
        hyperparameters = self.hyperparameters.copy()
        hyperparameters.values = dict(values)
        return hyperparameters

    def _tried(self, number: int, values: dict[str, Any]) -> bool:
        attempts = self._study.attempts()
        if len(attempts[number]) > 1:
            return False  # A repetition.
        return any(
            # A run may have defined more hyperparameters than were drawn for it.
            other != number and values in (tried[0].user_attrs.get(k) for k in ("drawn", "values"))
            for other, tried in attempts.items()
        )

    def _random_sampler(self) -> Any:
        from optuna.samplers import RandomSampler

        from kerastools.search._oracle.shared_study import PerTrialSampler

        return PerTrialSampler(lambda seed: RandomSampler(seed=seed), self.seed)

    def _name(self, number: int) -> str:
        return f"{number:0{len(str(self.max_trials or 1000))}d}"
