"""Optuna's samplers as an oracle of keras-tuner, for one process or many."""

import os
import time
import warnings
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial

from kerastools.search._oracle.space import difference

# Configurations drawn in search of one that is new, before the space counts as searched through.
_DRAWS = 20


class OptunaOracle(keras_tuner.Oracle):
    """Chooses the trials of a search with a sampler of Optuna, in one process or in many.

    By default the tree-structured Parzen estimator, which finds better configurations than random
    search in 25, 50 and 100 trials (`benchmarks/oracles.py`). Trials that are not finished count as
    bad ones in the meantime, so that the suggestions of a population differ. Conditional scopes are
    heeded: a hyperparameter is drawn only where its condition holds. No configuration is tried
    twice.

    The whole state of the search is a study of Optuna, written as it goes on, so that a search that
    is stopped at any point goes on where it was: finished trials count, unfinished ones are
    repeated. Without `storage` it is a file in the directory of the tuner, for one process at a
    time. With one, any number of processes on any number of machines work on it together, each of
    them started by the same script, at any time:

        # once, on a machine that all can reach (a database of PostgreSQL 12 or newer)
        createdb search
        # on each machine, as often as it has cores to spare
        python my_search.py      # OptunaOracle(..., storage="postgresql://user@host/search")

    and `kerastools search module:build data.npz --storage postgresql://user@host/search` does the
    same from the command line. On one machine `storage="sqlite:///search.db"` needs no server.
    Each process says every `heartbeat` seconds that it is alive. A trial whose process was silent
    for `grace` seconds, killed or cut off, is begun again by another, with the same values and
    seed, up to three times; no trial counts twice. After Ctrl-C it is begun again at once: see
    `release`. While the database is away, the processes wait, for up to ten minutes. Give all the
    same `seed`, `max_trials` (which counts all of them) and data, and a `directory` that they share
    if the best models are to be loaded anywhere. A study in a `storage` is never deleted:
    `PopulationTuner(overwrite=True)` refuses to run where there is one, and with other tuners
    `overwrite=True` goes on with it.

    Args:
        objective: Name of what is optimised, such as `"val_accuracy"`, a `keras_tuner.Objective` or
            a list of them.
        max_trials: Trials of all processes, and of the search before it was stopped.
        sampler: A function that takes an integer seed and returns a sampler, such as
            `lambda seed: optuna.samplers.CmaEsSampler(seed=seed)`: a new one is made for every
            trial. Or a sampler, which is used as it is.
        storage: URL of a database, or an Optuna storage with heartbeats.
        seed: Integer from 0. Trial i is drawn from `SeedSequence([seed, i])` and the results
            before it. By default new for each search.
        study_name: The study's name in the database; by default the tuner's `project_name`.
        heartbeat: Seconds between signs of life.
        grace: Seconds of silence after which a process counts as dead.

    Raises:
        ImportError: If Optuna is missing, or the database's driver.
        ValueError: If `seed` is negative, `sampler` is no sampler, or `storage` has no heartbeats;
            from a tuner's `search`, if the study is that of another search.
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
            raise ValueError(f"OptunaOracle needs an integer seed from 0. Received seed={seed}.")
        if sampler is None:
            sampler = lambda seed: TPESampler(seed=seed)  # noqa: E731
        if not callable(sampler) and not isinstance(sampler, BaseSampler):
            raise ValueError(
                "OptunaOracle needs a sampler of Optuna, or a function that takes a seed and "
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
        """Returns the next trial, or one whose status says that there is none, or none yet."""
        if tuner_id in self.ongoing_trials:
            return self.ongoing_trials[tuner_id]
        from kerastools.search._oracle.space import suggest

        study = self._connected()
        for ongoing in self.ongoing_trials.values():
            self._learn_space(ongoing)  # Its builder may have asked for what nobody knew.
        usual, draws = study.study.sampler, 1
        try:
            begun = study.begin(self.max_trials, lambda t: suggest(t, self.hyperparameters))
            while not isinstance(begun, str) and self._tried(*begun):
                study.discard(begun[0])
                if draws == _DRAWS:
                    begun = "STOPPED"
                    break
                draws += 1
                study.study.sampler = self._by_chance()
                begun = study.begin(self.max_trials, lambda t: suggest(t, self.hyperparameters))
        finally:
            study.study.sampler = usual
        if isinstance(begun, str):
            self._refresh()
            if begun == "IDLE" and not self.ongoing_trials:
                time.sleep(min(1.0, self.heartbeat / 4))  # Tuners ask again at once.
            return Trial(self._hyperparameters({}), "none", begun)
        number, values = begun
        trial = Trial(self._hyperparameters(values), self._name(number))
        self.ongoing_trials[tuner_id] = trial
        self._refresh()
        self._save_trial(trial)
        self.save()
        self._display.on_trial_begin(trial)
        return trial

    def update_trial(self, trial_id: str, metrics: dict[str, float], step: int = 0) -> Trial:
        """Takes the metrics of a trial."""
        with warnings.catch_warnings():
            # keras-tuner locks with methods that Python renamed long ago.
            warnings.filterwarnings("ignore", "currentThread|getName", DeprecationWarning)
            return super().update_trial(trial_id, metrics, step)

    def end_trial(self, trial: Trial) -> None:
        """Records what became of a trial."""
        own = self.trials[trial.trial_id]
        own.hyperparameters, own.message = trial.hyperparameters, trial.message
        own.status = "COMPLETED" if trial.status == "COMPLETED" else "FAILED"
        if own.status == "COMPLETED":
            self.score_trial(own)
            if np.isnan(own.score):
                own.status, own.message = "FAILED", "the objective is NaN"
        self._learn_space(own)
        done = own.status == "COMPLETED"
        result = {"values": own.hyperparameters.values, "best_step": own.best_step}
        result |= {"metrics": own.metrics.get_config()}
        result |= {} if done else {"message": (own.message or "failed")[-2000:]}
        self._study.end(int(own.trial_id), float(own.score) if done else None, **result)
        self.ongoing_trials = {k: t for k, t in self.ongoing_trials.items() if t is not own}
        del self.trials[own.trial_id]  # What is in the study counts: another may have been faster.
        self._refresh()
        self._save_trial(self.trials.get(own.trial_id, own))
        self.save()
        self._display.on_trial_end(own)
        trial.status, trial.message = own.status, own.message

    def share(self, epoch: int, best: dict[str, float]) -> dict[str, float]:
        """Writes down what trials have reached after an epoch; returns what all have, by name."""
        for name, value in best.items():
            self._study.report(int(name), epoch, float(value))
        return {self._name(n): value for n, value in self._study.reported(epoch).items()}

    def release(self) -> None:
        """Lets any process run at once the trials that this one has begun and will not finish.

        `PopulationTuner` calls it when its search is left by an exception or Ctrl-C. With another
        tuner call it yourself, or search again in the same thread: until then its process counts
        as one that is at work, as long as it lives.
        """
        self.ongoing_trials = {}
        if self._study is not None:
            self._study.release()

    def get_state(self) -> dict[str, Any]:
        """Returns the state as keras-tuner writes it down; the study is what counts."""
        self._connected()
        return super().get_state()

    def reload(self) -> None:
        """Takes over the study's trials and space."""
        self._connected(must_exist=True)

    def require_no_study(self, project_name: str) -> None:
        """Raises if the study of a project is in the storage, where others may be working on it."""
        if self.storage is None:
            return  # It is a file in the project's own directory.
        import optuna

        from kerastools.search._oracle.shared_study import storage_for

        storage = storage_for(self.storage, self.heartbeat, self.grace, "")
        name = self.study_name or project_name
        if name in optuna.study.get_all_study_names(storage):
            url = getattr(getattr(storage, "engine", None), "url", storage)  # Without password.
            raise ValueError(
                f"overwrite=True does not delete study {name!r} in the storage, because other "
                "processes may be working on it. When none is, delete it: optuna.delete_study("
                f"study_name={name!r}, storage='{url!r}'). Or give this search a project_name or "
                "study_name of its own, or go on with the study, without overwrite=True."
            )

    # The study ---------------------------------------------------------------------------------

    def _connected(self, must_exist: bool = False) -> Any:
        if self._study is not None:
            return self._study
        import optuna

        from kerastools.search._oracle.shared_study import PerTrialSampler, SharedStudy, storage_for

        file = os.path.join(self._project_dir, "optuna.journal")
        storage = storage_for(self.storage, self.heartbeat, self.grace, file)
        name = self.study_name or self._project_name
        if must_exist and name not in optuna.study.get_all_study_names(storage):
            raise ValueError(
                f"OptunaOracle found in {self._project_dir!r} a search whose study {name!r} is not "
                "in the storage: it was made with another oracle or storage, or deleted. Give this "
                "search a directory or project_name of its own, or pass overwrite=True."
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
        by_chance = not callable(self.sampler)
        study.study.sampler = (
            self.sampler if by_chance else PerTrialSampler(self.sampler, self.seed)
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
                f"{notes['objective']}; this one has {objective}. Give it a project_name or "
                "study_name of its own."
            )
        if (unlike := difference(space, self.hyperparameters)) is not None:
            raise ValueError(
                f"OptunaOracle found another search in study {name!r}: {unlike}. Give this search "
                "a project_name or study_name of its own."
            )

    def _refresh(self) -> None:
        """Takes over what all processes have done."""
        from kerastools.search._oracle.shared_study import attempt_that_counts, verdict

        ongoing = {t.trial_id: t for t in self.ongoing_trials.values()}
        trials, ends = {}, []
        for number, attempts in sorted(self._study.attempts().items()):
            name, status = self._name(number), verdict(attempts)
            if status in ("WAITING", "LOST"):
                continue
            if name in ongoing:
                trials[name] = ongoing[name]
                continue
            attempt = attempt_that_counts(attempts)
            if status != "RUNNING":
                ends.append((attempt.datetime_complete, name))
            before = self.trials.get(name)
            if before is not None and before.status == status:
                trials[name] = before
                continue
            trials[name] = self._trial(name, status, attempt)
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
            state["message"] = "the processes that ran it died"
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
            other != number and tried[0].user_attrs.get("drawn") == values
            for other, tried in attempts.items()
        )

    def _by_chance(self) -> Any:
        from optuna.samplers import RandomSampler

        from kerastools.search._oracle.shared_study import PerTrialSampler

        return PerTrialSampler(lambda seed: RandomSampler(seed=seed), self.seed)

    def _name(self, number: int) -> str:
        return f"{number:0{len(str(self.max_trials or 1000))}d}"
