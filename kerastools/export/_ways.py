"""The ways to write a model, from what was asked for to Keras's own export."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from kerastools._core.graph.calls import read_graph
from kerastools._core.graph.rebuild import rebuild
from kerastools._core.sample_inputs import first_line
from kerastools.export._half_precision import compute_in_bfloat16
from kerastools.export._polish import keep_apart, polish
from kerastools.folding import FoldReport, fold_batch_norm

_Written = TypeVar("_Written")
_CALLER = "export_savedmodel"


@dataclass(frozen=True)
class Way:
    """What is done to a model before it is written.

    Attributes:
        fold: Whether batch normalization is folded.
        half: Whether layers compute in bfloat16.
        freeze: Whether the weights become constants.
        own: Whether this package writes it; else `model.export` does.
    """

    fold: bool = False
    half: bool = False
    freeze: bool = False
    own: bool = True


def ways(asked: Way, keras_too: bool) -> list[Way]:
    """Returns `asked` and what can be written in its place, each with less done to the model."""
    found = [
        Way(fold, half, freeze)
        for fold, half in (
            (asked.fold, asked.half),
            (False, asked.half),
            (asked.fold, False),
            (False, False),
        )
        for freeze in (asked.freeze, False)
    ]
    return list(dict.fromkeys(found)) + [Way(own=False)] * keras_too


def first_that_works(
    candidates: list[Way], directory: Path, write: Callable[[Way], _Written]
) -> tuple[Way, _Written, str | None]:
    """Writes the first of the ways that can be written and is right.

    Args:
        candidates: The ways in turn; the first is what was asked for.
        directory: Where `write` writes; emptied before each.
        write: Writes in one way and returns what it found, or raises.

    Returns:
        The way, what `write` returned, and why what was asked for and is not so was not done.

    Raises:
        ValueError: If none works, with the reasons.
    """
    reasons: dict[Way, str] = {}
    for way in candidates:
        _empty(directory)
        try:
            written = write(way)
        except Exception as error:  # Whatever Keras, TensorFlow or the model's own code raises.
            reasons[way] = first_line(error)
            last = error
        else:
            return way, written, _note(candidates[0], way, reasons)
    raise ValueError(
        "; ".join(dict.fromkeys(reason.rstrip(".") for reason in reasons.values()))
    ) from last


_WORDS = {
    "fold": "not folded",
    "half": "not computed in bfloat16",
    "freeze": "weights kept as variables",
    "own": "written by model.export",
}


def _note(asked: Way, way: Way, reasons: dict[Way, str]) -> str | None:
    """Returns for each thing that was asked for and is not so what the last try of it said."""
    texts: dict[str, list[str]] = {}
    for field in fields(Way):
        if getattr(asked, field.name) and not getattr(way, field.name):
            tried = [reason for w, reason in reasons.items() if getattr(w, field.name)]
            texts.setdefault(tried[-1], []).append(_WORDS[field.name])
    return "; ".join(f"{', '.join(what)}: {why}" for why, what in texts.items()) or None


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def prepare(model: Any, way: Way) -> tuple[Any, FoldReport | None]:
    """Returns the model to write, and what folding did; `model` is left alone."""
    if not way.fold and not way.half:
        return model, None
    served, report = model, None
    if way.half:
        read_graph(model, _CALLER)
        served = _copy(model)
        compute_in_bfloat16(served)
        served = _copy(served)  # whose graph has the dtypes that the layers have now
    if way.fold:
        # Folding sees what is rounded to half precision, and where.
        served, report = fold_batch_norm(served, return_report=True)
        polish(served)
    if not way.freeze:
        keep_apart(served)
    return served, report


def _copy(model: Any) -> Any:
    return rebuild(model, _CALLER, lambda path, layer: None)
