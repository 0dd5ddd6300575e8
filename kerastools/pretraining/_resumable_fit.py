"""`fit` that can be interrupted after any epoch and goes on as if it had not been."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core.batches import Batches
from kerastools.initializers._variance_scaling import draw_seed


def resumable_fit(
    model: keras.Model,
    batches: Batches,
    epochs: int,
    directory: str | os.PathLike[str] | None = None,
    callbacks: Iterable[Any] = (),
    **fit: Any,
) -> None:
    """Trains a compiled model up to `epochs`; `model.history` tells of all of them.

    With a directory everything that can change is kept there after each epoch: weights, moving
    statistics, the optimizer's state, the state of random layers, the history. The next call with
    the same model and data goes on from it, to the bit, and returns at once if `epochs` are done.

    Raises:
        ValueError: If what the directory holds belongs to another model or other data.
    """
    model.optimizer.build(model.trainable_variables)
    state = _State(model, batches, directory)
    done = state.restore()
    if done < epochs:
        model.fit(
            batches,
            initial_epoch=done,
            epochs=epochs,
            shuffle=False,  # the batches are shuffled already
            callbacks=[_Keep(batches, state), *callbacks],
            **fit,
        )
    names = dict.fromkeys(name for logs in state.logs for name in logs)
    values = {name: [logs.get(name) for logs in state.logs] for name in names}
    set_history(model, len(state.logs), values)


def set_history(model: keras.Model, num_epochs: int, values: dict[str, list[Any]]) -> None:
    """Lets `model.history` tell of epochs that no single `fit` has trained."""
    history = keras.callbacks.History()
    history.set_model(model)
    history.epoch, history.history = list(range(num_epochs)), values
    model.history = history


def seed_of(seed: int | None, directory: str | os.PathLike[str] | None) -> int:
    """Returns `seed`, or a new one; a run that goes on from `directory` gets the one it had."""
    if seed is not None or directory is None:
        return draw_seed(seed)
    path = Path(directory) / "seed.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(draw_seed(None)))
    return int(path.read_text())


class _Keep(keras.callbacks.Callback):
    """Tells the batches which epoch it is, and saves at the end of each."""

    def __init__(self, batches: Batches, state: "_State") -> None:
        super().__init__()
        self.batches = batches
        self.state = state

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.batches.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.state.logs.append({name: float(value) for name, value in (logs or {}).items()})
        self.state.save()


class _State:
    """Every variable of a model and its optimizer, and what each epoch reported."""

    def __init__(
        self, model: keras.Model, batches: Batches, directory: str | os.PathLike[str] | None
    ) -> None:
        self.model = model
        self.path = None if directory is None else Path(directory) / "state.npz"
        self.logs: list[dict[str, float]] = []
        self.run = json.dumps(
            {
                "arrays": [
                    [list(a.shape), float(np.sum(a, dtype="float64"))] for a in batches.arrays
                ],
                "batch_size": batches.batch_size,
                "seed": batches.seed,
                "variables": [list(v.shape) for v in self.variables()],
            }
        )

    def variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def restore(self) -> int:
        """Returns the number of epochs that are done."""
        if self.path is None or not self.path.exists():
            return 0
        with np.load(self.path) as saved:
            if str(saved["run"]) != self.run:
                raise ValueError(
                    f"The backup in {self.path.parent} belongs to another run: it holds "
                    f"{saved['run']}, and now it is {self.run}. Call with the same model, data, "
                    "batch_size and seed to go on, or pass another directory."
                )
            for i, variable in enumerate(self.variables()):
                variable.assign(saved[f"variable_{i}"])
            self.logs = json.loads(str(saved["logs"]))
        return len(self.logs)

    def save(self) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {
            f"variable_{i}": _to_numpy(v) for i, v in enumerate(self.variables())
        }
        partial = self.path.with_suffix(".partial.npz")
        np.savez(partial, run=self.run, logs=json.dumps(self.logs), **values)
        os.replace(partial, self.path)


def _to_numpy(variable: Any) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable)
    # bfloat16 is no type of NumPy's own; float32 holds it exactly.
    return array if array.dtype.kind in "fiub" else array.astype("float32")
