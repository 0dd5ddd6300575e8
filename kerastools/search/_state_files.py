"""Atomic writing of state files."""

import json
import math
import os
from typing import Any

import numpy as np

from kerastools._core.keras_private.tuner import write_state_by


def write_json(path: str, state: Any) -> None:
    """Writes a JSON file atomically: readers see the old file or the new one."""
    _replace(path, lambda file: file.write(json.dumps(state).encode()))


def write_arrays(path: str, arrays: list[np.ndarray]) -> None:
    """Writes a list of arrays atomically: a line of JSON with dtypes and shapes, then their bytes.

    For the hundreds of small arrays of a deep net, NumPy's npz takes four times as long.
    """
    layout = json.dumps([(a.dtype.name, a.shape) for a in arrays])
    data = [layout.encode(), b"\n", *(a.tobytes() for a in arrays)]
    _replace(path, lambda file: file.writelines(data))


def read_arrays(path: str) -> list[np.ndarray]:
    """Reads a file written by `write_arrays`."""
    with open(path, "rb") as file:
        layout = [(np.dtype(name), shape) for name, shape in json.loads(file.readline())]
        return [
            np.frombuffer(file.read(dtype.itemsize * math.prod(shape)), dtype).reshape(shape)
            for dtype, shape in layout
        ]


def save_atomically(oracle: Any) -> None:
    """Makes this one `oracle` write its files by `write_json`.

    keras-tuner truncates a file before it writes: a process that is killed in between leaves a
    damaged file, and the search cannot be resumed.
    """
    write_state_by(oracle, write_json)


def drop_unrecorded(oracle: Any) -> None:
    """Drops trials that have a file but are not in `oracle.json`.

    The process was killed between the two writes. keras-tuner counts such a trial, but never runs
    it.
    """
    known = set(oracle.start_order)
    oracle.trials = {name: trial for name, trial in oracle.trials.items() if name in known}


def _replace(path: str, write: Any) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        write(file)
    os.replace(temporary, path)
