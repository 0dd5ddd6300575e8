"""All that changes in a run with a schedule, in one file."""

import json
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastools._core.keras_private.optimizer_hooks import known_variables
from kerastools.optimizers._base.rate_factors import joined_at, set_joined
from kerastools.optimizers._base.slots import optimizer_tree


class PhaseBackup:
    """Keeps weights, moving statistics, random states and the optimizer's whole state in a file.

    The file is replaced as a whole, so that a process which is killed while it writes leaves the
    one before.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / "freeze_schedule.npz"

    def read(self) -> dict[str, Any] | None:
        """Returns the plain part of what was saved, or None if nothing is there."""
        if not self.path.exists():
            return None
        with np.load(self.path) as saved:
            return dict(json.loads(str(saved["plain"])))

    def restore(self, model: Any) -> list[np.ndarray] | None:
        """Puts variables back, the optimizer being built for the right ones; returns the best.

        Raises:
            ValueError: If the file belongs to another model.
        """
        variables = _variables(model)
        with np.load(self.path) as saved:
            shapes = [list(v.shape) for v in variables]
            plain = json.loads(str(saved["plain"]))
            if plain["shapes"] != shapes:
                raise ValueError(
                    f"FreezeSchedule cannot go on from {self.path}: it was written with another "
                    f"model or optimizer. It holds {len(plain['shapes'])} variables, and now there "
                    f"are {len(shapes)}, or of other shapes. Pass another folder, or delete it."
                )
            for i, variable in enumerate(variables):
                variable.assign(saved[f"variable_{i}"])
            best = [saved[f"best_{i}"] for i in range(plain["num_best"])] or None
        for part, joined in zip(optimizer_tree(model.optimizer), plain["joined"], strict=True):
            known = known_variables(part)
            set_joined(part, {id(known[int(i)]): step for i, step in joined.items()})
        return best

    def write(self, model: Any, plain: dict[str, Any], best: list[Any] | None) -> None:
        """Saves everything, with what else the schedule has to know."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        variables, best = _variables(model), best or []
        places = [
            {id(v): i for i, v in enumerate(known_variables(part))}
            for part in optimizer_tree(model.optimizer)
        ]
        joined = [
            {where[key]: step for key, step in joined_at(part).items() if key in where}
            for part, where in zip(optimizer_tree(model.optimizer), places, strict=True)
        ]
        shapes = [list(v.shape) for v in variables]
        plain = plain | {"shapes": shapes, "joined": joined, "num_best": len(best)}
        arrays: dict[str, Any] = {f"variable_{i}": _storable(v) for i, v in enumerate(variables)}
        arrays |= {f"best_{i}": _storable(value) for i, value in enumerate(best)}
        partial = self.path.with_suffix(".partial.npz")
        np.savez(partial, plain=json.dumps(plain), **arrays)
        os.replace(partial, self.path)

    def delete(self) -> None:
        """Removes the file; the run is done."""
        self.path.unlink(missing_ok=True)


def _variables(model: Any) -> list[Any]:
    parts = optimizer_tree(model.optimizer)
    found = [*model.variables, *(v for part in parts for v in part.variables)]
    return list({id(v): v for v in found}.values())


def _storable(value: Any) -> np.ndarray:
    array = np.asarray(keras.ops.convert_to_numpy(value))
    # bfloat16 is no type of NumPy's own; float32 holds it exactly.
    return array if array.dtype.kind in "biuf" else array.astype("float32")
