"""Freezing and unfreezing layers while the model trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from kerastools._core._checks import require_built
from kerastools._core._graph import sublayers
from kerastools._core._layer_tree import LayerTree, TrainableState
from kerastools._core._registration import register
from kerastools._core._table import format_table
from kerastools.callbacks._phase import Phase
from kerastools.callbacks._phase_rate import PhaseRate
from kerastools.optimizers._rebind import rebind

_POLICIES = ("inference", "train")


@dataclass(frozen=True)
class Transition:
    """One begin of a phase, as `FreezeSchedule.history` lists them.

    Attributes:
        epoch: The epoch before which the phase began, counted from 0 as in `History.epoch`.
        phase: The number of the phase, counted from 0.
        layers: What it trains, as it was written.
        num_weights: How many weight arrays train.
    """

    epoch: int
    phase: int
    layers: Any
    num_weights: int


@register
class FreezeSchedule(keras.callbacks.Callback):
    """Trains some layers first and others later, in phases, inside one `fit`.

    For transfer: new upper layers on a pretrained trunk are trained while the trunk is frozen, then
    the trunk is unfrozen from the top down at a smaller learning rate. Keras's way is to stop, set
    `trainable`, compile and fit again, which forgets the optimizer's slots, iterations and
    learning-rate schedule; changing `trainable` during `fit` is ignored on TensorFlow, fails on JAX
    or trains a layer with another's momentum. Here, at the begin of each phase:

    - exactly the layers that the phase names train; all others are frozen, keep their weights bit
      for bit, and cost no backward pass;
    - every slot of the weights that stay, the iterations and the learning-rate schedule go on
      (`kerastools.optimizers.rebind`); weights that join late count their own steps;
    - weights that were frozen one by one stay frozen, and so does the kernel under a LoRA update.

    All is checked when training begins, before anything is changed. Afterwards the flags stay as
    the last phase had them, so that the model, its optimizer and a saved file agree and `fit` can
    go on; the learning rate is given back without the phase's multiplier. The phases are placed by
    epoch number: `fit(initial_epoch=5)` begins in the phase of epoch 5.

    Callbacks that set the learning rate at each epoch's begin and stand later in the list overrule
    the phase's. Put `keras.callbacks.BackupAndRestore` after this one.

    Args:
        phases: One `Phase` after the other, or a tuple of its arguments, `("head", 3)`; all but the
            last need `epochs`.
        batch_norm: What the batch normalisation of frozen layers does. `"inference"`: it uses its
            moving statistics and keeps them, which is right for small or shifted batches and for
            all cached features; when its layer is unfrozen, it goes over to batch statistics.
            `"train"`: batch normalisation is never frozen; scale, offset and moving statistics
            adapt to the new data in every phase. Either is decided by `trainable` alone and means
            the same in every version of Keras. Do not call the trunk with `training=False`:
            Keras ignores that in functional models up to 3.15 and obeys it from 3.16 on.

    Attributes:
        history: A `Transition` for each phase that began, with its epoch, for marking curves.

    Raises:
        ValueError: If `phases` is empty, a phase but the last has no end, or `batch_norm` is
            unknown. When training begins: if a layer is not found, a phase would train nothing, or
            the learning rate cannot be set as asked; the model is then as it was.
        TypeError: If something else than a `Phase` stands in `phases`.

    Example:

    >>> import numpy as np
    >>> layers = [keras.layers.Dense(4, name=name) for name in ("a", "b", "head")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> schedule = FreezeSchedule([Phase("head", epochs=2), Phase("b|head", lr_multiplier=0.1)])
    >>> x, y = np.ones((8, 3)), np.ones((8, 4))
    >>> _ = model.fit(x, y, epochs=5, callbacks=[schedule], verbose=0)
    >>> [(t.epoch, t.layers) for t in schedule.history]
    [(0, 'head'), (2, 'b|head')]
    >>> print(schedule)
    FreezeSchedule, batch_norm="inference"
    phase   epochs   layers   learning rate
    ─────────────────────────────────────────
        1   1–2      head     × 1
        2   3–       b|head   × 0.1

    Reference: Howard and Ruder, "Universal language model fine-tuning for text classification",
    ACL 2018 (gradual unfreezing).
    """

    def __init__(
        self, phases: Sequence[Phase | tuple[Any, ...]], batch_norm: str = "inference"
    ) -> None:
        super().__init__()
        self.phases = [_as_phase(phase, i) for i, phase in enumerate(phases)]
        self.batch_norm = batch_norm
        self.history: list[Transition] = []
        self._states: list[TrainableState] = []
        self._phase: int | None = None
        self._rate: PhaseRate | None = None
        _check(self.phases, batch_norm)

    def phase_at(self, epoch: int) -> int:
        """Returns the number of the phase that `epoch` belongs to; both are counted from 0."""
        for i, phase in enumerate(self.phases[:-1]):
            epoch -= int(phase.epochs or 0)
            if epoch < 0:
                return i
        return len(self.phases) - 1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the layers of every phase and checks all, before anything is changed."""
        if self._rate is not None:
            self._rate.release()  # The run before was interrupted.
        require_built(self.model, "FreezeSchedule")
        rate = PhaseRate(self.model.optimizer)
        for phase in self.phases:
            rate.check(phase)
        self._states = self._find_states()
        rebind(self.model.optimizer, self.model)
        self._rate = rate
        self._phase = None
        self.history = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes over to the phase of `epoch`, if it is another."""
        phase = self.phase_at(epoch)
        if phase == self._phase or self._rate is None:
            return
        self._states[phase].set()
        self._rate.begin(self.phases[phase])
        rebind(self.model.optimizer, self.model)
        self._phase = phase
        count = len(self.model.trainable_weights)
        self.history.append(Transition(epoch, phase, self.phases[phase].layers, count))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the learning rate back."""
        if self._rate is not None:
            self._rate.release()
            self._rate = None

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments as plain data, which JSON can hold."""
        phases = [phase.get_config() for phase in self.phases]
        return {"phases": phases, "batch_norm": self.batch_norm}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "FreezeSchedule":
        """Returns the schedule that `get_config` described."""
        return cls([Phase.from_config(p) for p in config["phases"]], config["batch_norm"])

    def __str__(self) -> str:
        rows, first = [], 1
        for i, phase in enumerate(self.phases, 1):
            last = "" if phase.epochs is None else first + phase.epochs - 1
            rate = phase.learning_rate
            shown = f"× {phase.lr_multiplier:g}" if rate is None else f"{rate:g}"
            rows.append((i, f"{first}–{last}", _text(phase.layers), shown))
            first += phase.epochs or 0
        title = f'FreezeSchedule, batch_norm="{self.batch_norm}"'
        return format_table(("phase", "epochs", "layers", "learning rate"), rows, title)

    def _find_states(self) -> list[TrainableState]:
        tree = LayerTree(self.model)
        norms = [
            layer
            for layer in sublayers(self.model)
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        states = []
        for phase in self.phases:
            layers = tree.select(phase.layers, "FreezeSchedule")
            if not tree.weights_of(layers):
                raise ValueError(
                    f"FreezeSchedule needs phases that train something. Received the phase "
                    f"{phase.layers!r}, whose layers "
                    f"{', '.join(layer.name for layer in layers[:5])} have no trainable weights."
                )
            if self.batch_norm == "train":
                layers = [*layers, *norms]
            states.append(tree.state_training(layers))
        return states


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
        if phase.epochs is None and i < len(phases) - 1:
            raise ValueError(
                f"FreezeSchedule needs epochs in every phase but the last. Received {phase!r} at "
                f"position {i} of {len(phases)}, after which the next would never begin."
            )
    if batch_norm not in _POLICIES:
        raise ValueError(
            f"FreezeSchedule needs batch_norm to be one of {_POLICIES}. Received {batch_norm!r}."
        )


def _text(layers: Any) -> str:
    if isinstance(layers, list | tuple):
        return ", ".join(_text(one) for one in layers)
    return layers.name if isinstance(layers, keras.Layer) else layers
