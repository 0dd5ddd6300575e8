"""Training copies of two models alike for a short time, and comparing what each output learned."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from kerastools.diagnosis._probe.losses import is_of_keras, loss_name
from kerastools.diagnosis._probe.trial_steps import Stepper
from kerastools.diagnosis._subject import Subject

# Steps of a short training, at least and at most, and the seconds that the untouched model may
# take; the mended one sees as many rows.
_FEWEST_STEPS, _MOST_STEPS, _SECONDS = 30, 200, 2.0
_ROWS_TO_JUDGE = 1024
# A loss may be this much higher by chance, relative and absolute, and must be as much lower to be
# better.
_CHANCE, _TINY = 0.02, 1e-3
_CATEGORICAL = ("categorical_crossentropy", "sparse_categorical_crossentropy")


class ShortTraining:
    """Trains copies of models on the rows of one subject, in the same order.

    Args:
        subject: The untouched model, data as they are read, and an optimizer.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.num_rows = 0

    def losses(self, subject: Subject) -> list[float]:
        """Returns the loss of each output after a short training; infinite where it fails.

        Where a subject has another loss or other targets than the one it is compared with, it is
        the fraction of wrong classes, or the squared error relative to the variance.
        """
        try:
            return self._losses(subject)
        except Exception:  # Targets that the loss does not take fail in many ways.
            if not self.num_rows:
                self.num_rows = _MOST_STEPS * subject.batch_size
            return [math.inf] * len(self.subject.loss.parts)

    def _losses(self, subject: Subject) -> list[float]:
        size = min(subject.batch_size, subject.num_rows)
        stepper = Stepper(
            subject.model, _Batches(subject, size), subject.loss, subject.optimizer, "repair"
        )
        if not self.num_rows:
            stepper.run(num_steps=1)
            begin = time.perf_counter()
            stepper.run(num_steps=4)
            num_steps = int(_SECONDS / ((time.perf_counter() - begin) / 5))
            self.num_rows = size * min(max(num_steps, _FEWEST_STEPS), _MOST_STEPS)
        steps = stepper.run(num_steps=max(1, self.num_rows // size))
        if not steps.finite:
            return [math.inf] * len(subject.loss.parts)
        if subject.loss.is_unknown:
            return [float(np.mean(steps.losses[-max(1, len(steps.losses) // 4) :]))]
        return self._judged(subject, stepper, size)

    def _judged(self, subject: Subject, stepper: Stepper, size: int) -> list[float]:
        size = min(max(32, size), subject.num_rows)
        num = max(1, min(_ROWS_TO_JUDGE, subject.num_rows) // size) * size
        rows = np.linspace(0, subject.num_rows - 1, num).astype(int)
        parts = [
            stepper.predictions(subject.batch(rows[i : i + size])[0]) for i in range(0, num, size)
        ]
        predictions = [np.concatenate(p) for p in zip(*parts, strict=True)]
        base = self.subject
        found = []
        for place, (part, prediction) in enumerate(
            zip(subject.loss.parts, predictions, strict=True)
        ):
            if part is None:
                continue
            own, read = (s.loss.by_output(s.y)[place][rows] for s in (subject, base))
            was = base.original[1].parts[place] if base.original else base.loss.parts[place]
            y_was = base.original[0] if base.original else base.y
            is_same = y_was is base.y and _kind(part) == _kind(was)
            loss = _loss(part, own, prediction) if is_same else _error(part, read, prediction)
            found.append(loss if np.isfinite(loss) else math.inf)
        return found


def is_worse(after: list[float], before: list[float]) -> bool:
    """Whether one of the losses has grown."""
    return any(
        not a <= b + _CHANCE * abs(b) + _TINY for a, b in zip(after, before, strict=True)
    ) and not all(math.isinf(b) for b in before)


def is_better(after: list[float], before: list[float]) -> bool:
    """Whether one of the losses has fallen, and none has grown."""
    fallen = (
        a < b - _CHANCE * abs(b) if math.isfinite(b) else math.isfinite(a)
        for a, b in zip(after, before, strict=True)
    )
    return any(fallen) and not is_worse(after, before)


class _Batches(Sequence[Any]):
    """Whole batches of rows in an order that is another in each epoch, and always the same."""

    def __init__(self, subject: Subject, size: int) -> None:
        self.subject = subject
        self.size = size
        self.per_epoch = subject.num_rows // size

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: Any) -> Any:
        epoch, place = divmod(index, self.per_epoch)
        order = np.random.default_rng((0, epoch)).permutation(self.subject.num_rows)
        return self.subject.batch(order[place * self.size : (place + 1) * self.size])


def _kind(part: Any) -> str:
    name = loss_name(part)
    return _CATEGORICAL[0] if name in _CATEGORICAL and is_of_keras(part) else name


def _loss(part: Any, y: np.ndarray, prediction: np.ndarray) -> float:
    if y.ndim == prediction.ndim - 1 and prediction.shape[-1] == 1:
        y = y[..., None]
    value = part(ops.convert_to_tensor(y), ops.convert_to_tensor(prediction))
    return float(np.mean(ops.convert_to_numpy(value)))


def _error(part: Any, y: np.ndarray, prediction: np.ndarray) -> float:
    """Returns the fraction of wrong classes, or the squared error relative to the variance."""
    if not np.isfinite(prediction).all():
        return math.inf
    units = prediction.shape[-1]
    if y.ndim == prediction.ndim and y.shape[-1] == 1 < units:
        y = y[..., 0]
    if y.ndim == prediction.ndim - 1 and units > 1:
        return float(np.mean(prediction.argmax(axis=-1) != y))
    y = y.reshape(prediction.shape)
    if ((y == 0) | (y == 1)).all():
        if units > 1 and (y.sum(axis=-1) == 1).all():
            return float(np.mean(prediction.argmax(axis=-1) != y.argmax(axis=-1)))
        limit = 0.0 if getattr(part, "from_logits", False) else 0.5
        return float(np.mean((prediction > limit) != (y > 0.5)))
    return float(np.mean((prediction - y) ** 2) / max(float(np.var(y)), 1e-30))


def untouched(subject: Subject) -> Subject:
    """Returns the subject as it was passed, before its targets were read as what they are meant."""
    if subject.original is None:
        return subject
    y, loss = subject.original
    return replace(subject, y=y, loss=loss)


def fresh(optimizer: Any) -> Any:
    """Returns an optimizer of the same configuration that has taken no step."""
    return type(optimizer).from_config(optimizer.get_config())
