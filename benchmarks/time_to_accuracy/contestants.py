"""Who trains: plain Keras, kerastools, and kerastools with one ingredient taken away.

Every contestant is a recipe for the layers, an optimizer, and whether kerastools initialises the
model and runs its `fit`. A learning rate that is tuned is tuned alike for all (`rates.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
from workloads import Recipe, Workload

import kerastools as kt

PLAIN = Recipe()  # What a newcomer writes: ReLU, and Keras's initializer.
HAND = Recipe(initializer="he_normal")
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "Adam": keras.optimizers.Adam,
    "AdamW": keras.optimizers.AdamW,
    "Nadam": keras.optimizers.Nadam,
    "Muon": keras.optimizers.Muon,
    "Lion": keras.optimizers.Lion,
    "Schedule-Free": keras.optimizers.ScheduleFreeAdamW,
    "NAG": lambda rate=0.01, **clip: keras.optimizers.SGD(rate, 0.9, nesterov=True, **clip),
    "kt.Adam": lambda rate=1e-3, **clip: kt.optimizers.Adam(
        rate, epsilon=1e-14, epsilon_mode="inside", **clip
    ),
    "kt.Nadam": lambda rate=1e-3, **clip: kt.optimizers.Nadam(
        rate, epsilon=1e-14, momentum_schedule="none", epsilon_mode="inside", **clip
    ),
    "kt.ScheduleFreeAdamW": lambda rate=5e-3, **clip: kt.optimizers.ScheduleFreeAdamW(rate, **clip),
    "kt.ScheduleFreeAdamW, λ = 2": lambda **clip: kt.optimizers.ScheduleFreeAdamW(
        5e-3, weight_decay=2.0, **clip
    ),
    "kt.SGD": lambda rate=0.01, **clip: kt.optimizers.SGD(rate, 0.9, nesterov=True, **clip),
}


@dataclass(frozen=True)
class Contestant:
    """Who trains.

    Attributes:
        name: For tables.
        recipe: How the layers are made.
        optimizer: A key of `OPTIMIZERS`.
        rate: The learning rate; the optimizer's default if `None`.
        clip: Whether gradients are clipped to a global norm of 1.
        initialize: Whether `kerastools.calibration.initialize` draws the weights.
        accelerate: Whether `kerastools.acceleration.accelerate` runs `fit`.
    """

    name: str
    recipe: Recipe = PLAIN
    optimizer: str = "Adam"
    rate: float | None = None
    clip: bool = False
    initialize: bool = False
    accelerate: bool = False

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Returns what its `fit` is called with: kerastools trains beside what it evaluates."""
        own = self.optimizer.startswith("kt.")
        return [kt.callbacks.EvaluationWeights()] if own else []

    def model(self, workload: Workload, seed: int) -> keras.Model:
        """Returns the model, ready for `fit`. All of it is inside the clock."""
        model = workload.build(self.recipe)
        if self.initialize:
            kt.calibration.initialize(model, "by_activation", seed=seed)
        workload.start(model, seed)
        rate = {} if self.rate is None else {"learning_rate": self.rate}
        clip = {"global_clipnorm": 1.0} if self.clip else {}
        optimizer = OPTIMIZERS[self.optimizer](*rate.values(), **clip)
        model.compile(optimizer, workload.loss, metrics=workload.metrics)
        if self.accelerate:
            kt.acceleration.accelerate(model)
        return model


# One configuration for all workloads: the defaults of each part. The optimizer and its default rate
# were chosen among five on these workloads, on seeds 100 to 102, none of which is published.
ZERO = Contestant(
    "kerastools, zero tuning",
    optimizer="kt.ScheduleFreeAdamW",
    initialize=True,
    accelerate=True,
)
DEFAULTS = Contestant("Keras, defaults")
PEERS = [
    Contestant(f"Keras, {name}, He, tuned", HAND, name)
    for name in ("Adam", "AdamW", "Nadam", "Muon", "Lion", "Schedule-Free")
]
CONTROL = Contestant("Keras, tanh, Glorot, NAG, tuned", Recipe("tanh"), "NAG")
TUNED = [
    Contestant(f"kerastools, {name[3:]}, tuned", PLAIN, name, None, False, True, True)
    for name in ("kt.Adam", "kt.Nadam", "kt.SGD", "kt.ScheduleFreeAdamW")
]
# λ on W5 was chosen among six, on seeds 100 to 109.
_W1 = [
    replace(ZERO, name="zero tuning, Keras's initialisation", initialize=False),
    replace(ZERO, name="zero tuning, Keras's Adam", optimizer="Adam"),
    replace(ZERO, name="zero tuning, Keras's fit", accelerate=False),
    replace(ZERO, name="zero tuning, with ELU", recipe=Recipe("elu")),
    replace(ZERO, name="zero tuning, with batch norm", recipe=Recipe(batch_norm=True)),
]
_W5 = [
    replace(ZERO, name="zero tuning, with weight decay", optimizer="kt.ScheduleFreeAdamW, λ = 2")
]
ABLATION = {"W1": _W1, "W5": _W5}


def on(contestant: Contestant, workload: str) -> Contestant:
    """Returns the contestant as it enters a workload: recurrent nets are clipped by hand, too."""
    by_hand = workload == "W6" and contestant is not DEFAULTS
    return replace(contestant, clip=True) if by_hand else contestant
