"""Mending what `diagnose` found, and proving that it is mended."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import tree

from kerastools._core.graph.calls import read_graph
from kerastools._core.table import Printed, format_table
from kerastools.calibration import calibrate, initialize
from kerastools.diagnosis._change import Change
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._remedies import structure_of
from kerastools.diagnosis._subject import Subject

# What new weights mend, and what scaling them by the data mends where that was not enough.
_WEIGHTS = (
    "not finite",
    "vanishing signal",
    "exploding signal",
    "vanishing gradient",
    "exploding gradient",
    "saturated",
    "dead units",
    "identical weights",
    "wrong initialisation",
)
_RATES = ("learning rate too large", "update too small")
_BATCHES = (
    "batch normalisation with a tiny batch",
    "batch normalisation with a tiny last batch",
)
_USUAL_BATCH = 32
_ROWS_TO_CALIBRATE = 256


@dataclass(frozen=True, repr=False)
class Repair(Printed):
    """What `Diagnosis.repair` returns; printing it shows the changes as a table.

    Attributes:
        model: The mended model, compiled if the original was.
        changes: What was changed, in the order in which it was done.
        diagnosis: The diagnosis of the mended model, with its first training steps.
        y: The targets to train with; others than before only if their classes were misnumbered.
        batch_size: Rows of a batch to train with; another than before only if batch normalisation
            could not work with it.
        optimizer: A fresh optimizer for it, `None` if none was known; the one that `model` is
            compiled with, if it is.
    """

    model: Any
    changes: tuple[Change, ...]
    diagnosis: Any
    y: Any
    batch_size: int
    optimizer: Any

    @property
    def verified(self) -> bool:
        """Whether the second diagnosis finds nothing and the loss falls in the first steps."""
        losses = np.array(self.diagnosis.first_losses)
        cycle = max(1, len(losses) // 4)
        falls = bool(np.isfinite(losses).all() and losses[-cycle:].mean() < losses[:cycle].mean())
        return falls and not self.diagnosis.findings

    def __str__(self) -> str:
        losses = self.diagnosis.first_losses
        title = (
            f'Repair of "{self.model.name}": {len(self.changes)} changes, '
            f"{len(self.diagnosis.findings)} findings left, loss {losses[0]:.4g} → "
            f"{losses[-1]:.4g} in {len(losses) - 1} steps; "
            f"{'verified' if self.verified else 'not verified'}."
        )
        rows = [(change.rule, change.layer, change.what) for change in self.changes]
        return format_table(("rule", "layer", "what was changed"), rows, title) if rows else title

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but model and optimizer as plain data, ready for JSON."""
        return {
            "changes": [vars(change) for change in self.changes],
            "diagnosis": self.diagnosis.to_dict(),
            "batch_size": self.batch_size,
            "verified": self.verified,
        }


def repair(diagnosis: Any, judge: Callable[[Subject], Any], seed: int | None) -> Repair:
    """Mends structure, then weights, then learning rate, each judged after the one before."""
    optimizer = diagnosis.subject.optimizer
    subject = replace(diagnosis.subject, optimizer=None, readings=())
    findings = list(diagnosis.findings)
    changes: list[Change] = []

    structure = structure_of(findings, subject, changes)
    if any(f.rule in _WEIGHTS for f in findings):
        # Initializers are part of the model: those of biases may be what killed the units.
        structure.reset_biases = True
    subject = replace(subject, model=structure.rebuilt(subject.model))
    if structure.changes_figures:
        findings = list(judge(subject).findings)
    if bad := [f for f in findings if f.rule in _WEIGHTS]:
        initialize(subject.model, seed=seed)
        changes += [Change(f.rule, f.layer, "all weights drawn anew by initialize()") for f in bad]
        findings = list(judge(subject).findings)
    if bad := [f for f in findings if f.rule in _WEIGHTS]:
        changes += _calibrated(subject, bad)
    subject = replace(subject, batch_size=_batch_size(subject, findings, changes))

    optimizer = keras.optimizers.Adam() if optimizer is None else optimizer
    known = diagnosis.subject.optimizer is not None
    subject = replace(subject, optimizer=type(optimizer).from_config(optimizer.get_config()))
    after = judge(subject)
    if bad := [f for f in after.findings if f.rule in _RATES and known]:
        config = {**optimizer.get_config(), "learning_rate": bad[0].remedy}
        subject = replace(subject, optimizer=type(optimizer).from_config(config))
        what = f"learning rate {bad[0].remedy:.3g}"
        changes.append(Change(bad[0].rule, bad[0].layer, what))
        after = judge(subject)
    fresh = type(subject.optimizer).from_config(subject.optimizer.get_config()) if known else None
    _compile_like(diagnosis.subject, subject.model, fresh)
    return Repair(subject.model, tuple(changes), after, subject.y, subject.batch_size, fresh)


def _calibrated(subject: Subject, bad: list[Finding]) -> list[Change]:
    """Scales the kernels by the data; what cannot be scaled stays as it is, and is told."""
    rows = np.unique(np.linspace(0, subject.num_rows - 1, _ROWS_TO_CALIBRATE).astype(int))
    try:
        calibrate(subject.model, tree.map_structure(lambda a: a[rows], subject.x))
    except ValueError:
        return []
    return [Change(f.rule, f.layer, "kernels scaled to unit variance by calibrate()") for f in bad]


def _batch_size(subject: Subject, findings: list[Finding], changes: list[Change]) -> int:
    """Returns a batch size that batch normalisation can work with, the last batch included."""
    size, rows = subject.batch_size, subject.num_rows
    found = next((f for f in findings if f.rule in _BATCHES), None)
    if found is None:
        return size
    size = min(_USUAL_BATCH, rows) if found.rule == _BATCHES[0] else size
    near = sorted(range(max(8, size // 2), 2 * size + 1), key=lambda n: abs(n - size))
    size = next((n for n in near if rows % n == 0 or 2 * (rows % n) >= n), size)
    changes.append(Change(found.rule, found.layer, f"batch_size={size} in fit"))
    return size


def _compile_like(subject: Subject, target: Any, optimizer: Any) -> None:
    """Compiles `target` with the losses and metrics of the original, if that is compiled."""
    source = subject.model
    if not getattr(source, "compiled", False) or optimizer is None:
        return
    config = source.get_compile_config()
    if subject.readings:
        parts: Any = subject.loss.parts
        if isinstance(read_graph(source, "repair").output_structure, dict):
            parts = dict(zip(subject.loss.names, parts, strict=True))
        config["loss"] = tree.map_structure(
            keras.saving.serialize_keras_object, parts if len(parts) > 1 else parts[0]
        )
    config["optimizer"] = keras.saving.serialize_keras_object(optimizer)
    target.compile_from_config(config)
    target.optimizer = optimizer
