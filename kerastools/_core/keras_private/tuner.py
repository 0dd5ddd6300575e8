"""The underscored hooks of keras-tuner's tuners and oracles, under public names.

keras-tuner's own tuners and oracles stand on them; a subclass of the user's that overrides one is
obeyed. `tests/_core/keras_private/test_tuner.py` fails when one moves.
"""

import os
from collections.abc import Callable
from typing import Any

from kerastools._core.keras_private.patched import patched


def copied_callbacks(tuner: Any, callbacks: list[Any]) -> list[Any]:
    """Returns copies of `callbacks` for one trial, or says why one cannot be copied."""
    return list(tuner._deepcopy_callbacks(callbacks))


def log_apart(tuner: Any, callbacks: list[Any], trial: Any, execution: int) -> None:
    """Gives each `TensorBoard` among `callbacks` a folder of the trial's own."""
    tuner._configure_tensorboard_dir(callbacks, trial, execution)


def build_model(tuner: Any, hp: Any) -> Any:
    """Returns what the hypermodel builds of `hp`."""
    return tuner._build_hypermodel(hp)


def run_trial(tuner: Any, trial: Any, **fit: Any) -> None:
    """Runs a trial and reports its result; one that raises has failed."""
    tuner._try_run_and_update_trial(trial, **fit)


def state_file(tuner: Any) -> str:
    """Returns the path of the tuner's state."""
    return str(tuner._get_tuner_fname())


def is_worker(tuner: Any) -> bool:
    """Returns whether another process holds the oracle, in keras-tuner's own distributed search."""
    return bool(tuner._is_worker())


def project_of(oracle: Any) -> tuple[str, str]:
    """Returns the directory and the name of the search."""
    return oracle._project_dir, oracle._project_name


def show_begin(oracle: Any, trial: Any) -> None:
    """Saves a trial that begins, and shows it."""
    oracle._save_trial(trial)
    oracle.save()
    oracle._display.on_trial_begin(trial)


def show_end(oracle: Any, trial: Any, saved: Any) -> None:
    """Saves `saved`, the best attempt at the trial, and shows the one that has ended."""
    oracle._save_trial(saved)
    oracle.save()
    oracle._display.on_trial_end(trial)


def write_state_by(oracle: Any, write: Callable[[str, Any], None]) -> None:
    """Lets `oracle` write its files by `write(path, state)`, on this one object."""

    def save(_: Any) -> None:
        write(oracle._get_oracle_fname(), oracle.get_state())

    def save_trial(_: Any, trial: Any) -> None:
        folder = oracle._get_trial_dir(trial.trial_id)
        write(os.path.join(folder, "trial.json"), trial.get_state())

    patched(oracle, save=save, _save_trial=save_trial)
