"""State files that are whole at any moment, whenever the process is killed."""

import json
import math
import os
from typing import Any

import numpy as np

from kerastools._core.keras_private.tuner import write_state_by


def write_json(path: str, state: Any) -> None:
    """Writes `state` beside `path` and moves it there: readers see the old file or the new one."""
    _replace(path, lambda file: file.write(json.dumps(state).encode()))


def write_arrays(path: str, arrays: list[np.ndarray]) -> None:
    """Writes `arrays`, in their order, as `write_json` does.

    A line that says what they are, and their bytes: NumPy's archive takes four times as long for
    the hundreds of small ones of a deep net.
    """
    layout = json.dumps([(a.dtype.name, a.shape) for a in arrays])
    data = [layout.encode(), b"\n", *(a.tobytes() for a in arrays)]
    _replace(path, lambda file: file.writelines(data))


def read_arrays(path: str) -> list[np.ndarray]:
    """Returns what `write_arrays` wrote."""
    with open(path, "rb") as file:
        layout = [(np.dtype(name), shape) for name, shape in json.loads(file.readline())]
        return [
            np.frombuffer(file.read(dtype.itemsize * math.prod(shape)), dtype).reshape(shape)
            for dtype, shape in layout
        ]


def save_atomically(oracle: Any) -> None:
    """Makes `oracle` write its files with `write_json`, on this one object.

    keras-tuner truncates a file and then writes it: a process that is killed in between leaves half
    a file, and the search cannot be resumed.
    """
    write_state_by(oracle, write_json)


def drop_unrecorded(oracle: Any) -> None:
    """Forgets trials whose file was written and that `oracle.json` does not know of.

    The process was killed between the two. keras-tuner would count such a trial and never run it.
    """
    known = set(oracle.start_order)
    oracle.trials = {name: trial for name, trial in oracle.trials.items() if name in known}


def _replace(path: str, write: Any) -> None:
    beside = f"{path}.{os.getpid()}.tmp"
    with open(beside, "wb") as file:
        write(file)
    os.replace(beside, path)
