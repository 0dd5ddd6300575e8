"""An Optuna study that several processes share, and the storage it is kept in."""

import atexit
import os
import threading
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

# Attempts at a trial whose processes died.
_MAX_ATTEMPTS = 4
# Keys of user attributes of an Optuna trial.
_REPEATS, _SURPLUS, _MESSAGE, _RUNNER = "repeats", "surplus", "message", "runner"
_RELEASED, _TO_RETRY = "released", "to retry"
_PROCESS = uuid.uuid4().hex


class NoTrial(Enum):
    """Why there is no trial to run; the values are keras-tuner's statuses."""

    IDLE = "IDLE"  # Another process runs the last trials, which may have to be repeated.
    STOPPED = "STOPPED"


class Outcome(Enum):
    """Outcome of a trial of the search, over all its attempts; keras-tuner's status if it has one.

    WAITING: a repetition is queued. LOST: its process died, and it is to be repeated.
    """

    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    RUNNING = "RUNNING"
    WAITING = "WAITING"
    LOST = "LOST"


class SharedStudy:
    """Fault-tolerant Optuna study: gives each trial of a search to one of several processes.

    A trial of the search is one or more trials of the study: the first attempt, and a repetition
    each time that its process died. Its number is that of the first attempt. Dead processes are
    detected by the heartbeats of Optuna's storage. A storage without heartbeats is used by one
    process at a time, so whatever runs when it is opened died. When a thread begins a trial, its
    earlier search is over, and trials left running by it are ended, with or without heartbeats.

    The process may be killed at any point. Races between processes are decided by trial numbers,
    which the storage assigns one by one: the lower number wins, the other trial is marked surplus.

    Args:
        storage: An Optuna storage.
        name: Name of the study, which is created if needed.
        direction: `"minimize"` or `"maximize"`.
        patience: Seconds to wait for a storage that does not answer.
    """

    def __init__(self, storage: Any, name: str, direction: str, patience: float = 600.0) -> None:
        with quiet():
            if name in optuna.study.get_all_study_names(storage):
                self.study = optuna.load_study(storage=storage, study_name=name)
            else:  # By now, another process may have created it.
                self.study = optuna.create_study(
                    storage=storage, study_name=name, direction=direction, load_if_exists=True
                )
        self.patience = patience
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(name)
        self._own: dict[int, Any] = {}
        self._seen: dict[int, float] = {}
        interval = getattr(storage, "get_heartbeat_interval", lambda: None)()
        self._interval: int | None = interval
        self._grace = getattr(storage, "grace_period", None) or 2 * (interval or 0)
        self._answers_since = time.monotonic()
        self._thread: threading.Thread | None = None
        release = weakref.WeakMethod(self.release)
        atexit.register(lambda: (method := release()) and method())

    def take_over(self) -> None:
        """Ends the trials of dead processes, if the storage has no heartbeats."""
        if self._interval is None:
            for trial in self._trials():
                if trial.state == TrialState.RUNNING:
                    self._give_up(trial.number)

    # The trials of the search ------------------------------------------------------------------

    def attempts(self) -> dict[int, list[Any]]:
        """Returns the attempts at each trial of the search, by its number."""
        attempts: dict[int, list[Any]] = {}
        for trial in self._trials():
            if _SURPLUS not in trial.user_attrs:
                attempts.setdefault(trial.user_attrs.get(_REPEATS, trial.number), []).append(trial)
        return attempts

    def begin(
        self, budget: int | None, fill_in: Callable[[optuna.Trial], dict[str, Any]]
    ) -> tuple[int, dict[str, Any]] | NoTrial:
        """Begins a trial; returns its number and values, or why there is none.

        Args:
            budget: Total number of trials of the search.
            fill_in: Samples the values of a trial.
        """
        self._end_abandoned()
        while True:
            self._fail_stale()
            attempts = self.attempts()
            waiting = any(outcome(a) is Outcome.WAITING for a in attempts.values())
            lost = [number for number, a in attempts.items() if outcome(a) is Outcome.LOST]
            if lost and not waiting:
                params = max((t.params for t in attempts[lost[0]]), key=len)
                repeats = {_REPEATS: lost[0]}
                self._patiently(partial(self.study.enqueue_trial, params, user_attrs=repeats))
            elif not waiting and budget is not None and len(attempts) >= budget:
                others = any(
                    outcome(a) is Outcome.RUNNING and number not in self._own
                    for number, a in attempts.items()
                )
                return NoTrial.IDLE if others else NoTrial.STOPPED
            if (begun := self._ask(budget, fill_in)) is not None:
                return begun

    def end(self, number: int, value: float | None, **attributes: Any) -> None:
        """Records the result of a trial of this process, or its failure if `value` is `None`.

        If the trial was taken for dead and repeated elsewhere, that result counts.
        """
        trial = self._own[number]

        def write() -> None:
            if self._trial(trial.number).state == TrialState.RUNNING:
                for name, attribute in attributes.items():
                    trial.set_user_attr(name, attribute)
                state = TrialState.FAIL if value is None else TrialState.COMPLETE
                self.study.tell(trial.number, value, state, skip_if_finished=True)

        try:
            self._patiently(write)
        except UpdateFinishedTrialError:
            pass
        except RuntimeError as error:  # A grid sampler raises it when it is exhausted.
            if "Study.stop" not in str(error):
                raise
        self._own.pop(number, None)

    def retries(self, number: int) -> int:
        """Returns how often a trial failed and is or was tried again."""
        return sum(_TO_RETRY in trial.user_attrs for trial in self.attempts()[number])

    def end_to_retry(self, number: int) -> None:
        """Records that a trial of this process failed and is to be tried again."""
        self.end(number, None, **{_TO_RETRY: True})

    def discard(self, number: int) -> None:
        """Withdraws a trial that this process began, so that it does not count."""
        self._drop(self._own.pop(number))

    def release(self) -> None:
        """Releases the running trials of this process, so that others repeat them at once."""
        own, self._own = self._own, {}
        for trial in own.values():
            with quiet(), suppress(Exception):  # Without waiting: the process is ending.
                trial.set_user_attr(_RELEASED, True)  # It does not count as a death.
                self.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def report(self, number: int, step: int, value: float) -> None:
        """Records an intermediate value of a trial of this process."""
        with suppress(UpdateFinishedTrialError):  # It was taken for dead.
            self._patiently(lambda: self._own[number].report(value, step))

    def reported(self, step: int) -> dict[int, float]:
        """Returns the intermediate values of all trials at a step, by number."""
        return {
            number: trial.intermediate_values[step]
            for number, attempts in self.attempts().items()
            for trial in attempts
            if step in trial.intermediate_values
        }

    def note(self, name: str, value: Any) -> None:
        """Sets a user attribute of the study."""
        self._patiently(lambda: self.study.set_user_attr(name, value))

    def notes(self) -> dict[str, Any]:
        """Returns the user attributes of the study."""
        return self._patiently(lambda: self.study.user_attrs)

    # The storage -------------------------------------------------------------------------------

    def _trials(self) -> list[Any]:
        return self._patiently(lambda: self.study.get_trials(deepcopy=False))

    def _trial(self, number: int) -> Any:
        return next(t for t in self.study.get_trials(deepcopy=False) if t.number == number)

    def _ask(self, budget: int | None, fill_in: Any) -> tuple[int, dict[str, Any]] | None:
        """Begins a trial; returns `None` if another process was faster."""
        # If the process dies before the first heartbeat, see _adopt.
        trial = self._patiently(self.study.ask)
        self._beat(trial.number)
        number = trial.user_attrs.get(_REPEATS, trial.number)
        attempts = self.attempts()
        earlier = [
            t
            for t in attempts[number]
            if t.number < trial.number and (t.state != TrialState.FAIL or _MESSAGE in t.user_attrs)
        ]
        is_first = number == trial.number
        rank = sum(n < number for n in attempts)
        if earlier or (is_first and budget is not None and rank >= budget):
            self._drop(trial)
            return None
        self._patiently(lambda: trial.set_user_attr(_RUNNER, self._runner()))
        self._own[number] = trial
        if self._interval is not None and self._thread is None:
            self._thread = threading.Thread(target=_beat_on, args=(weakref.ref(self),), daemon=True)
            self._thread.start()
        values = self._patiently(lambda: fill_in(trial))
        self._patiently(lambda: trial.set_user_attr("drawn", values))
        return number, values

    def _drop(self, trial: Any) -> None:
        self._patiently(lambda: trial.set_user_attr(_SURPLUS, True))
        self._give_up(trial.number)

    def _give_up(self, number: int) -> None:
        self._patiently(
            lambda: self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
        )

    def _beat(self, number: int) -> None:
        if self._interval is not None:
            identity = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            self._storage.record_heartbeat(identity)

    def _runner(self) -> str:
        return f"{_PROCESS} {os.getpid()} {threading.get_ident()}"

    def _end_abandoned(self) -> None:
        """Ends trials left running by an earlier search in this thread."""
        own = {trial.number for trial in self._own.values()}
        for trial in self._trials():
            is_left = trial.user_attrs.get(_RUNNER) == self._runner()
            if is_left and trial.state == TrialState.RUNNING and trial.number not in own:
                self._give_up(trial.number)

    def _fail_stale(self) -> None:
        """Ends the trials of dead processes."""
        if self._interval is None:
            return
        # After an outage of the storage, living processes get time for a heartbeat.
        if time.monotonic() - self._answers_since > 2 * self._interval:
            with quiet():
                self._patiently(lambda: optuna.storages.fail_stale_trials(self.study))
        self._adopt()

    def _adopt(self) -> None:
        """Gives a heartbeat to trials that may have none, because their process died before it.

        Optuna never takes such a trial for dead. A trial that is alive is not affected.
        """
        own = {trial.number for trial in self._own.values()}
        now = time.monotonic()
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and trial.number not in own:
                if now - self._seen.setdefault(trial.number, now) > 2 * self._grace:
                    self._seen[trial.number] = now
                    self._patiently(partial(self._beat, trial.number))
            else:
                self._seen.pop(trial.number, None)

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """Returns `call()`, retried while the storage does not answer."""
        start, pause = time.monotonic(), 0.1
        while True:
            try:
                with quiet():
                    return call()
            except Exception as error:
                if not _is_away(error) or time.monotonic() - start > self.patience:
                    raise
                if pause == 0.1:
                    print(f"The storage of the search does not answer, waiting: {error}")
                time.sleep(pause)
                pause = min(2 * pause, 5.0)
                self._answers_since = time.monotonic()


def outcome(attempts: list[Any]) -> Outcome:
    """Returns the outcome of a trial of the search, given its attempts."""
    states = {trial.state for trial in attempts}
    if TrialState.COMPLETE in states:
        return Outcome.COMPLETED
    if any(t.state == TrialState.FAIL and _MESSAGE in t.user_attrs for t in attempts):
        return Outcome.FAILED
    for state in (TrialState.RUNNING, TrialState.WAITING):
        if state in states:
            return Outcome[state.name]
    deaths = sum(not {_RELEASED, _TO_RETRY} & set(trial.user_attrs) for trial in attempts)
    return Outcome.LOST if deaths < _MAX_ATTEMPTS else Outcome.FAILED


def attempt_that_counts(attempts: list[Any]) -> Any:
    """Returns the first finished attempt, or the last one if none is finished."""
    finished = [t for t in attempts if t.state == TrialState.COMPLETE]
    finished += [t for t in attempts if t.state == TrialState.FAIL and _MESSAGE in t.user_attrs]
    return (finished or [attempts[-1]])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Silences Optuna's log and warnings."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", "Heartbeat of storage is supposed")
            yield
    finally:
        optuna.logging.set_verbosity(level)


def _beat_on(reference: Any) -> None:
    """Sends heartbeats for the trials of this process as long as the study exists."""
    while (shared := reference()) is not None:
        for trial in list(shared._own.values()):
            with suppress(Exception):  # Outage or end; the main thread will notice.
                shared._beat(trial.number)
        interval = shared._interval
        del shared
        time.sleep(interval)


def _is_away(error: BaseException | None) -> bool:
    """Whether an error of the storage is caused by its connection."""
    from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

    if not isinstance(error, StorageInternalError | SQLAlchemyError):
        return False
    while error is not None and not isinstance(error, InterfaceError | OperationalError):
        error = error.__cause__ or error.__context__
    return error is not None


def storage_for(storage: Any, heartbeat: int, grace: int, own_file: str) -> Any:
    """Returns an Optuna storage for a URL or a storage; for `None`, one in `own_file`."""
    if storage is None:
        _repair_journal(own_file)
        return JournalStorage(JournalFileBackend(own_file, JournalFileOpenLock(own_file)))
    if isinstance(storage, str):
        return _database(storage, heartbeat, grace)
    if getattr(storage, "get_heartbeat_interval", lambda: None)() is None:
        raise ValueError(
            "OptunaOracle needs a storage with heartbeats, to detect trials whose process died. "
            f"Received {storage!r}. Pass its URL, RDBStorage(url, heartbeat_interval=15, "
            "grace_period=60), or nothing for a file in the directory of the search."
        )
    return storage


def _database(url: str, heartbeat: int, grace: int) -> RDBStorage:
    for pause in (0.2, 0.5, 1.0, 2.0, None):
        try:
            with quiet():
                return RDBStorage(
                    _with_driver(url),
                    engine_kwargs=_engine_arguments(url),
                    heartbeat_interval=heartbeat,
                    grace_period=grace,
                )
        except ImportError as error:
            raise ImportError(
                f"OptunaOracle needs the driver of {url.partition(':')[0]}; for PostgreSQL: "
                "pip install 'kerastools[distributed]'."
            ) from error
        except (SQLAlchemyError, StorageInternalError) as error:
            # Processes that start at the same time create the same tables.
            if pause is None:
                reason = str(error.__cause__ or error).splitlines()[0]
                raise ConnectionError(
                    f"OptunaOracle cannot connect to the storage: {reason}. Is the server running, "
                    "does the database exist, and is the URL correct?"
                ) from error
            time.sleep(pause)
    raise AssertionError


def _repair_journal(path: str) -> None:
    """Removes what a killed process may leave: the lock, and an incomplete last line."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}.lock")
    with suppress(FileNotFoundError), open(path, "rb+") as file:
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)


def _with_driver(url: str) -> str:
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return f"postgresql+psycopg://{url.removeprefix(prefix)}"
    return url


def _engine_arguments(url: str) -> dict[str, Any]:
    # SQLite: seconds to wait for a lock. Others: reconnect to a restarted server.
    return (
        {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    )


class PerTrialSampler(BaseSampler):
    """Optuna sampler that makes a new one per trial, seeded by `SeedSequence([seed, number])`.

    Otherwise, a resumed search would repeat its first draws, and all processes with one seed would
    draw the same.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self.make = make
        self.seed = seed
        self._number: int | None = None
        self._sampler: Any = None

    def _of(self, trial: Any) -> BaseSampler:
        if trial.number != self._number:
            sequence = np.random.SeedSequence([self.seed, trial.number])
            self._sampler = self.make(int(sequence.generate_state(1)[0]))
            self._number = trial.number
        return self._sampler

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        """Calls the trial's sampler."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        """Calls the trial's sampler."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
        """Calls the trial's sampler."""
        return self._of(trial).sample_independent(study, trial, name, distribution)

    def before_trial(self, study: Any, trial: Any) -> None:
        """Calls the trial's sampler."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: Any, trial: Any, state: optuna.trial.TrialState, values: Any
    ) -> None:
        """Calls the trial's sampler."""
        self._of(trial).after_trial(study, trial, state, values)
