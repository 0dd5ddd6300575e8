"""`fine_tune`: transfer learning of a pretrained model in one call."""

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from kerastools._core.checks import require_at_least, require_finite
from kerastools._core.graph.calls import read_graph
from kerastools._core.replicas import in_strategy_scope
from kerastools._core.table import Printed, format_table
from kerastools.callbacks import FreezeSchedule
from kerastools.callbacks._freeze.phase_follower import PhaseFollower
from kerastools.transfer._features.feature_cache import FeatureCache
from kerastools.transfer._refusal import CannotCacheError
from kerastools.transfer._schedules import gradual, head_and_units

_NAME = "fine_tune"
# Maximum number of groups in which the trunk is unfrozen.
_GROUPS = 4
# Learning rate of a layer relative to the layer above it, and the minimum of the product.
_LAYER_DECAY, _LOWEST = 0.9, 0.01


@dataclass(frozen=True, eq=False, repr=False)
class FineTuning(Printed):
    """Result of `fine_tune`, which prints as tables.

    Attributes:
        model: The trained model: the backbone's layers and the head.
        history: The `keras.callbacks.History` of all epochs, including those of the head.
        schedule: The `kerastools.callbacks.FreezeSchedule` that was used; print it, edit its
            `phases`, and pass it to the next call.
        uncached: Why the head was not trained on cached features, or `None` if it was.
    """

    model: keras.Model
    history: Any
    schedule: FreezeSchedule
    uncached: str | None

    def to_dict(self) -> dict[str, Any]:
        """Returns history and schedule, ready for JSON."""
        return {
            "history": self.history.history,
            "schedule": self.schedule.get_config(),
            "uncached": self.uncached,
        }

    def __str__(self) -> str:
        names = list(self.history.history)
        rows = [
            (epoch + 1, *(float(values[i]) for values in self.history.history.values()))
            for i, epoch in enumerate(self.history.epoch)
        ]
        notes = [] if self.uncached is None else [f"Without cached features: {self.uncached}"]
        return "\n\n".join([str(self.schedule), format_table(("epoch", *names), rows), *notes])


@in_strategy_scope
def fine_tune(
    model: keras.Model,
    x: Any,
    y: Any = None,
    epochs: int = 5,
    head_epochs: int = 5,
    learning_rate: float = 1e-3,
    schedule: FreezeSchedule | None = None,
    **fit: Any,
) -> FineTuning:
    """Fine-tunes a pretrained model for a new task: its head first, then the layers below it.

    1. A backbone that is not compiled, such as `keras.applications.MobileNetV2(include_top=False)`,
       gets a head (global average pooling of feature maps, and a `Dense` layer with one unit per
       class or target value) and is compiled with Adam. A compiled model is used as it is.
    2. The head is trained for `head_epochs` on cached features of the frozen backbone
       (`FeatureCache`); if they cannot be cached, without a cache.
    3. The layers below are unfrozen group by group from the top down (`gradual`: four groups, one
       epoch per group, the last one to the end), for `epochs` more. From each layer with weights to
       the one below it, the learning rate falls by a tenth, to no less than a hundredth in all:
       shallow trunks adapt, deep ones keep their features. Iterations and learning-rate schedule
       continue from the first epoch to the last. The optimizer's slots are reset when the first
       group joins, because those of the head's first steps slow down training.

    Preprocess `x` for the backbone, with its `keras.applications.*.preprocess_input`.

    Args:
        model: The pretrained model, built: functional or Sequential. Its weights are trained in
            place.
        x: Inputs, as for `fit`: arrays, or a list or dictionary of arrays; for a compiled model,
            also a dataset, see `FeatureCache.fit`.
        y: Integer classes, of shape (rows,) or (rows, 1); or numbers of shape (rows,) or
            (rows, values): one-hot classes if each row is one-hot, otherwise regression targets.
            For a compiled model, targets of its loss.
        epochs: Number of epochs after those of the head, >= 0.
        head_epochs: Number of epochs of the head alone, >= 1.
        learning_rate: Learning rate of Adam; not used for a compiled model.
        schedule: A schedule to use instead, such as the edited one of an earlier call. Training
            lasts `head_epochs + epochs` epochs. Its first phase is trained on cached features,
            unless it ends after steps or the schedule has a backup.
        **fit: Other arguments of `fit`: `batch_size`, `validation_data`, `callbacks`, `verbose` ...

    Returns:
        A `FineTuning` with model, history and schedule; it prints as a table.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or is subclassed, `y` is invalid, or a number of
            epochs is out of range.

    Example:

    >>> layers = [keras.layers.Dense(8, "relu", name=name) for name in "abcd"]
    >>> backbone = keras.Sequential([keras.Input((3,)), *layers])
    >>> x, y = np.ones((8, 3)), np.arange(8) % 2
    >>> tuned = fine_tune(backbone, x, y, epochs=5, head_epochs=3, verbose=0)
    >>> tuned.model.output_shape, len(tuned.history.epoch)
    ((None, 2), 8)
    >>> print(tuned.schedule)
    FreezeSchedule, batch_norm="inference"
    phase   layers                 lasts        learning rate
    ───────────────────────────────────────────────────────────────────────────────
        1   new_head               3 epochs     × 1, × 0.9 per level
        2   new_head, d            1 epoch      × 1, × 0.9 per level, fresh slots
        3   new_head, d, c         1 epoch      × 1, × 0.9 per level
        4   new_head, d, c, b      1 epoch      × 1, × 0.9 per level
        5   new_head, d, c, b, a   to the end   × 1, × 0.9 per level

    Reference: Howard and Ruder, "Universal language model fine-tuning for text classification",
    ACL 2018.
    """
    read_graph(model, _NAME)
    require_at_least(0, _NAME, epochs=epochs)
    require_at_least(1, _NAME, head_epochs=head_epochs)
    if not model.compiled:
        model = _with_head(model, y, learning_rate)
    if schedule is None:
        schedule = _default(model, epochs, head_epochs)
    return _run(model, x, y, schedule, head_epochs + epochs, fit)


def _default(model: keras.Model, epochs: int, head_epochs: int) -> FreezeSchedule:
    top, units = head_and_units(model, None, _NAME)
    num_groups = max(min(_GROUPS, len(units), epochs), 1)
    decay = max(_LAYER_DECAY ** len(units), _LOWEST) ** (1 / num_groups)
    schedule = gradual(model, num_groups, layer_decay=round(decay, 3), head=top)
    schedule.phases[0] = replace(schedule.phases[0], epochs=head_epochs)
    schedule.phases[1] = replace(schedule.phases[1], fresh_slots=True)
    return schedule


def _run(
    model: keras.Model, x: Any, y: Any, schedule: FreezeSchedule, epochs: int, fit: dict[str, Any]
) -> FineTuning:
    """Trains by `schedule`, in its first phase on cached features if possible."""
    history, uncached = keras.callbacks.History(), None
    history.set_model(model)
    history.epoch = []
    callbacks = list(fit.get("callbacks") or ())
    if schedule.phases[0].steps is None and schedule.directory is None:
        with PhaseFollower(schedule, model) as follower:
            try:
                arguments = {**fit, "epochs": epochs, "callbacks": [*callbacks, follower]}
                _extend(history, FeatureCache(model).fit(x, y, **arguments))
            except CannotCacheError as error:
                uncached = str(error)
    else:
        uncached = "the first phase ends in the middle of an epoch, or the schedule has a backup"
    start = len(history.epoch)
    if start < epochs:
        arguments = {**fit, "callbacks": [schedule, *callbacks], "epochs": epochs}
        _extend(history, model.fit(x, y, initial_epoch=start, **arguments))
    return FineTuning(model, history, schedule, uncached)


def _extend(history: Any, more: Any) -> None:
    history.epoch += more.epoch
    for name, values in more.history.items():
        history.history.setdefault(name, []).extend(values)


def _with_head(model: keras.Model, y: Any, learning_rate: float) -> keras.Model:
    """Returns the backbone under a new head, compiled."""
    if y is None:
        raise ValueError(
            f"{_NAME} needs y to know the number of classes. Received a dataset and model "
            f'"{model.name}", which is not compiled. Add a head to it and compile it first.'
        )
    units, activation, loss = _task(require_finite("y", y, _NAME))
    graph = read_graph(model, _NAME)
    if len(graph.outputs) != 1:
        raise ValueError(
            f'{_NAME} needs a backbone with one output. Received model "{model.name}" with '
            f"{len(graph.outputs)}. Add a head to it and compile it first."
        )
    features = graph.outputs[0]
    rank = len(features.shape)
    if rank > 2:
        pooling = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D")(name="new_pooling")
        features = pooling(features)
    # Float32 for any dtype policy, as Keras's guide to mixed precision recommends for outputs.
    head = keras.layers.Dense(units, activation, dtype="float32", name="new_head")
    whole = keras.Model(graph.input_structure, head(features), name=f"{model.name}_fine_tuned")
    metrics = ["mean_absolute_error"] if loss == "mean_squared_error" else ["accuracy"]
    whole.compile(keras.optimizers.Adam(learning_rate), loss, metrics=metrics)
    return whole


def _task(y: np.ndarray) -> tuple[int, str, str]:
    """Returns units, activation and loss of a head for `y`."""
    if y.dtype.kind in "iu" and (y.ndim == 1 or y.shape[1:] == (1,)):
        if y.min() < 0:
            raise ValueError(f"{_NAME} needs classes >= 0. Received class {y.min()}.")
        return int(y.max()) + 1, "softmax", "sparse_categorical_crossentropy"
    if y.dtype.kind not in "iufb" or y.ndim > 2:
        raise ValueError(
            f"{_NAME} needs y to be classes or numbers, of shape (rows,) or (rows, values). "
            f"Received an array of {y.dtype} of shape {y.shape}."
        )
    width = 1 if y.ndim == 1 else y.shape[1]
    if width > 1 and np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all():
        return width, "softmax", "categorical_crossentropy"
    return width, "linear", "mean_squared_error"
