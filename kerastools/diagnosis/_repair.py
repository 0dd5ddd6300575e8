"""Fixing what `diagnose` found, and keeping of it what a short training likes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.graph.fans import is_kernel
from kerastools._core.graph.flow import walk
from kerastools._core.graph.rebuild import rebuild
from kerastools._core.table import Printed, format_table
from kerastools.calibration import calibrate, initialize
from kerastools.diagnosis._change import Change
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._probe.short_training import (
    ShortTraining,
    fresh,
    is_better,
    is_worse,
    untouched,
)
from kerastools.diagnosis._remedies import STRUCTURAL, restructured
from kerastools.diagnosis._subject import Subject

# What new weights fix, and what scaling them by the data fixes where that was not enough.
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
_RATES = ("learning rate not positive", "learning rate too large", "update too small")
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
        model: The fixed model, compiled if the original was.
        changes: What was changed, in the order in which it was done.
        undone: What was changed and taken back, with the reason.
        diagnosis: The diagnosis of the fixed model, with its first training steps.
        y: The targets to train with; others than before only if their classes were misnumbered.
        batch_size: Rows of a batch to train with; another than before only if batch normalisation
            could not work with it.
        optimizer: A fresh optimizer for it, `None` if none was known; the one that `model` is
            compiled with, if it is.
        loss: The loss to compile with.
        loss_weights: The weight of each output's loss to compile with; others than before only
            where a huge target was scaled.
        losses: The loss of each output after a short training: of the untouched model, and of the
            fixed one trained alike.
        verified: Whether something was changed, after the short training an output of the fixed
            model is better than that of the untouched one and none is worse, and the second
            diagnosis finds nothing.
    """

    model: Any
    changes: tuple[Change, ...]
    undone: tuple[Change, ...]
    diagnosis: Any
    y: Any
    batch_size: int
    optimizer: Any
    loss: Any
    loss_weights: list[float]
    losses: tuple[list[float], list[float]]
    verified: bool

    def __str__(self) -> str:
        before, after = (", ".join(f"{loss:.4g}" for loss in part) for part in self.losses)
        what = "verified" if self.verified else "not verified"
        if not self.changes:
            what = "nothing was changed"
        title = (
            f'Repair of "{self.model.name}": {len(self.changes)} changes, {len(self.undone)} '
            f"undone, {len(self.diagnosis.findings)} findings left; after a short training loss "
            f"{before} untouched, {after} repaired; {what}."
        )
        rows = [(c.rule, c.layer, c.what) for c in (*self.changes, *self.undone)]
        return format_table(("rule", "layer", "what was changed"), rows, title) if rows else title

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but model and optimizer as plain data, ready for JSON."""
        return {
            "changes": [vars(change) for change in self.changes],
            "undone": [vars(change) for change in self.undone],
            "diagnosis": self.diagnosis.to_dict(),
            "batch_size": self.batch_size,
            "loss_weights": self.loss_weights,
            "losses": list(self.losses),
            "verified": self.verified,
        }


@dataclass
class _Draft:
    """A repair so far: every fix is tried on it, and kept if the short training likes it."""

    subject: Subject
    findings: list[Finding]
    judge: Callable[[Subject], Any]
    training: ShortTraining
    losses: list[float]
    changes: list[Change] = field(default_factory=list)
    undone: list[Change] = field(default_factory=list)

    def attempt(self, subject: Subject, changes: list[Change], with_rate: bool = False) -> bool:
        """Keeps a changed subject, or notes why not; returns whether it is kept."""
        _show_progress(f"repair: {changes[0].what}")
        losses = self.training.losses(subject)
        judged = replace(subject, optimizer=subject.optimizer if with_rate else None)
        findings = list(self.judge(judged).findings)
        known = {f.rule for f in self.findings}
        new = [f.rule for f in findings if f.rule in _WEIGHTS and f.rule not in known]
        reason = ""
        if is_worse(losses, self.losses):
            before, after = (", ".join(f"{a:.4g}" for a in b) for b in (self.losses, losses))
            reason = f"after a short training the loss was {after}, not {before}"
        elif new and not is_better(losses, self.losses):
            reason = f"{new[0]} was found then"
        if reason:
            self.undone += [replace(c, what=f"{c.what}: undone, {reason}") for c in changes]
            return False
        self.subject, self.losses, self.findings = subject, losses, findings
        self.changes += changes
        return True


def repair(diagnosis: Any, judge: Callable[[Subject], Any], seed: int | None) -> Repair:
    """Fixes structure, then weights, then batch size and learning rate, each judged on its own."""
    original = diagnosis.subject
    known = original.optimizer is not None
    optimizer = keras.optimizers.Adam() if not known else original.optimizer
    subject = replace(original, optimizer=fresh(optimizer))
    training = ShortTraining(subject)
    _show_progress("repair: a short training of the untouched model")
    before = training.losses(untouched(subject))
    copied = rebuild(subject.model, "repair")
    subject = replace(subject, model=copied, loss=subject.loss.of(copied), readings=())
    draft = _Draft(subject, list(diagnosis.findings), judge, training, before)

    structural = [f for f in diagnosis.findings if f.rule in STRUCTURAL]
    if not _together(draft, structural, seed):
        for finding in structural:
            changed, what = restructured(finding, draft.subject)
            if what:
                draft.attempt(changed, [Change(finding.rule, finding.layer, what)])
    for fix in (_redrawn, _calibrated):
        bad = [f for f in draft.findings if f.rule in _WEIGHTS]
        if bad and (fixed := fix(draft.subject, bad, seed)):
            draft.attempt(*fixed)
    if bad := [f for f in draft.findings if f.rule in _BATCHES]:
        draft.attempt(*_rebatched(draft.subject, bad[0]))
    after = judge(draft.subject)
    if known and (bad := [f for f in after.findings if f.rule in _RATES and f.remedy]):
        config = {**optimizer.get_config(), "learning_rate": bad[0].remedy}
        what = f"learning rate {bad[0].remedy:.3g}"
        changed = replace(draft.subject, optimizer=type(optimizer).from_config(config))
        draft.attempt(changed, [Change(bad[0].rule, bad[0].layer, what)], with_rate=True)
        after = judge(draft.subject)
    _show_progress("")
    subject = draft.subject
    new = fresh(subject.optimizer) if known else None
    _compile_like(original, subject, new)
    return Repair(
        subject.model,
        tuple(draft.changes),
        tuple(draft.undone),
        after,
        subject.y,
        subject.batch_size,
        new,
        subject.loss.packed(subject.loss.parts),
        subject.loss.weights,
        (before, draft.losses),
        bool(draft.changes) and is_better(draft.losses, before) and not after.findings,
    )


def _together(draft: _Draft, structural: list[Finding], seed: int | None) -> bool:
    """Tries all changes of structure at once, then with new weights: none may help without others.

    Returns:
        Whether one of the two was kept. If not, the draft is as it was.
    """
    subject, changes = draft.subject, []
    for finding in structural:
        subject, what = restructured(finding, subject)
        if what:
            changes.append(Change(finding.rule, finding.layer, what))
    tries = [(subject, changes)] if len(changes) > 1 else []
    if changes and (bad := [f for f in draft.findings if f.rule in _WEIGHTS]):
        redrawn, more = _redrawn(subject, bad, seed)
        tries.append((redrawn, changes + more))
    kept = any(draft.attempt(*attempt) for attempt in tries)
    if not kept:
        draft.undone.clear()
    return kept


def _redrawn(
    subject: Subject, bad: list[Finding], seed: int | None
) -> tuple[Subject, list[Change]]:
    """Draws the kernels of the guilty layers again; all other weights stay."""
    model = rebuild(subject.model, "repair")
    guilty = {path for f in bad for path in f.guilty}
    dead = {path for f in bad if f.rule == "dead units" for path in f.guilty}
    kept = [
        (v, ops.convert_to_numpy(v))
        for placed in walk(model, "repair")
        for v in placed.weights
        if not (is_kernel(v) and _is_among(placed.path, guilty))
    ]
    initialize(model, "by_activation", seed=seed)
    for variable, value in kept:
        variable.assign(value)
    for placed in walk(model, "repair"):
        if _is_among(placed.path, dead) and placed.layer.trainable:
            for v in placed.weights:
                if v.name == "bias":
                    v.assign(ops.zeros_like(v))
    what = "its weights drawn again for its activation"
    changes = [Change(f.rule, ", ".join(f.guilty[:3]), what) for f in bad]
    return replace(subject, model=model, loss=subject.loss.of(model)), changes


def _is_among(path: str, paths: set[str]) -> bool:
    return any(path == p or path.startswith(f"{p}/") for p in paths)


def _calibrated(
    subject: Subject, bad: list[Finding], seed: int | None
) -> tuple[Subject, list[Change]] | None:
    """Scales the kernels by the data; `None` where that cannot be done."""
    model = rebuild(subject.model, "repair")
    rows = np.unique(np.linspace(0, subject.num_rows - 1, _ROWS_TO_CALIBRATE).astype(int))
    try:
        calibrate(model, tree.map_structure(lambda a: a[rows], subject.x))
    except ValueError:
        return None
    what = "kernels scaled to unit variance by calibrate()"
    changed = replace(subject, model=model, loss=subject.loss.of(model))
    return changed, [Change(f.rule, f.layer, what) for f in bad]


def _rebatched(subject: Subject, found: Finding) -> tuple[Subject, list[Change]]:
    """Takes a batch size that batch normalisation can work with, the last batch included."""
    size, rows = subject.batch_size, subject.num_rows
    size = min(_USUAL_BATCH, rows) if found.rule == _BATCHES[0] else size
    near = sorted(range(max(8, size // 2), 2 * size + 1), key=lambda n: abs(n - size))
    size = next((n for n in near if rows % n == 0 or 2 * (rows % n) >= n), size)
    change = Change(found.rule, found.layer, f"batch_size={size} in fit")
    return replace(subject, batch_size=size), [change]


def _compile_like(original: Subject, subject: Subject, optimizer: Any) -> None:
    """Compiles the new model with the losses and metrics of the original, if that is compiled."""
    source, target = original.model, subject.model
    if not getattr(source, "compiled", False) or optimizer is None:
        return
    config = source.get_compile_config()
    loss = subject.loss
    was = original.original[1] if original.original else original.loss
    if loss.parts != was.parts:
        config["loss"] = tree.map_structure(
            keras.saving.serialize_keras_object, loss.packed(loss.parts)
        )
    if loss.weights != was.weights:
        config["loss_weights"] = loss.packed(loss.weights)
    config["optimizer"] = keras.saving.serialize_keras_object(optimizer)
    target.compile_from_config(config)
    target.optimizer = optimizer


def _show_progress(text: str) -> None:
    """Shows what is being done, in a terminal only; an empty text clears the line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
