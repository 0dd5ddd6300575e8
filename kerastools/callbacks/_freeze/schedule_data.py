"""A schedule of phases as plain data, to print, to edit and to keep as JSON."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import keras

from kerastools._core.table import Printed, format_table
from kerastools.callbacks._freeze.phase import Phase

_POLICIES = ("inference", "train", "recalibrate")
# A longer list of layers is shortened in the table.
_SHOWN = 5


class ScheduleData(Printed):
    """The phases and the policy of a `FreezeSchedule`, without what a training run adds."""

    def __init__(self, phases: Sequence[Phase | tuple[Any, ...]], batch_norm: str) -> None:
        self.phases: list[Phase] = list(phases)  # type: ignore[arg-type]
        self.batch_norm = batch_norm
        self.check()

    def check(self) -> None:
        """Refuses what cannot be followed; `phases` may have been edited since they were given.

        Raises:
            TypeError: If one of `phases` is neither a `Phase` nor a tuple of its arguments.
            ValueError: If there is none, one but the last has no end, or the policy is unknown.
        """
        self.phases = [_as_phase(phase, i) for i, phase in enumerate(self.phases)]
        _check(self.phases, self.batch_norm)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data, which JSON can hold."""
        phases = [phase.get_config() for phase in self.phases]
        return {"phases": phases, "batch_norm": self.batch_norm}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns the schedule that `get_config` described."""
        return cls([Phase.from_config(p) for p in config["phases"]], config["batch_norm"])

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Returns the schedule as JSON, which can be read and edited; writes it to `path` if given.

        Raises:
            TypeError: If a phase's `until` is a function that is not registered with Keras.
        """
        text = json.dumps(self.get_config(), indent=2)
        if path is not None:
            Path(path).write_text(text)
        return text

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Returns the schedule that `to_json` described, given its text or the path of its file.

        Raises:
            ValueError: If `source` is neither.
        """
        text = str(source)
        if not text.lstrip().startswith("{"):
            if not Path(source).is_file():
                raise ValueError(
                    "FreezeSchedule.from_json needs JSON as to_json returns it, or the path of a "
                    f"file with it. Received {text[:80]!r}."
                )
            text = Path(source).read_text()
        return cls.from_config(json.loads(text))

    def __str__(self) -> str:
        rows = []
        for i, phase in enumerate(self.phases, 1):
            rows.append((i, _text(phase.layers), phase.lasts(), phase.rate()))
        title = f'FreezeSchedule, batch_norm="{self.batch_norm}"'
        return format_table(("phase", "layers", "lasts", "learning rate"), rows, title)


def _as_phase(phase: Any, position: int) -> Phase:
    if isinstance(phase, Phase):
        return phase
    if isinstance(phase, tuple):
        return Phase(*phase)
    raise TypeError(
        f"FreezeSchedule needs a list of Phase objects. Received {phase!r} of type "
        f"{type(phase).__name__} at position {position}. Write Phase({phase!r}, epochs=...)."
    )


def _check(phases: list[Phase], batch_norm: str) -> None:
    if not phases:
        raise ValueError("FreezeSchedule needs at least one Phase. Received an empty list.")
    for i, phase in enumerate(phases):
        if not phase.ends and i < len(phases) - 1:
            raise ValueError(
                "FreezeSchedule needs epochs, steps or until in every phase but the last. Received "
                f"{phase!r} at position {i} of {len(phases)}, after which the next never begins."
            )
    if batch_norm not in _POLICIES:
        raise ValueError(
            f"FreezeSchedule needs batch_norm to be one of {_POLICIES}. Received {batch_norm!r}."
        )


def _text(layers: Any) -> str:
    if isinstance(layers, list | tuple):
        parts = [_text(one) for one in layers]
        if len(parts) > _SHOWN:
            return f"{parts[0]} to {parts[-1]} ({len(parts)})"
        return ", ".join(parts)
    return layers.name if isinstance(layers, keras.Layer) else layers
