"""Sharpness-aware minimisation: gradients from the worst point nearby."""

from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import dense, known_variables, num_replicas
from kerastools._core.registration import register
from kerastools._core.replicas import sum_over_replicas
from kerastools.optimizers._base.clipping import norm
from kerastools.optimizers._base.wrapped_optimizer import WrappedOptimizer


@register
class SAM(WrappedOptimizer):
    """SAM: the gradient is taken where the loss is worst within a ball round the weights.

    Finds flatter minima, which often generalise better, at the price of two gradients an update.
    With gradient g(θ) and radius ρ,

        ε = ρ g(θ) / ‖g(θ)‖;    θ ← update of the inner optimizer with g(θ + ε)

    over all variables together; with `adaptive`, ε = ρ θ²g / ‖|θ|g‖, which does not change when
    layers are rescaled.

    The optimizer sees one gradient a step, so every update is two steps: one that climbs to θ + ε
    and one that goes back and descends. For both to see the same rows, as the paper means it, each
    batch comes twice, and in order: `model.fit(SAM.batches(x, y), shuffle=False)`. With other data
    the climb is made on one batch and the descent on the next, which is known to gain less. After
    an odd number of steps the model stands at θ + ε.

    Args:
        inner_optimizer: Any `keras.optimizers.Optimizer` without gradient accumulation.
        rho: ρ, greater than 0, the radius in units of the weights; with `adaptive` 10 times larger.
        adaptive: Whether the ball is stretched along each weight (ASAM).
        name: Name of the optimizer.

    Raises:
        TypeError: If `inner_optimizer` is no optimizer.
        ValueError: If `rho` is not greater than 0 or `inner_optimizer` accumulates gradients.

    Example:

    >>> from kerastools.optimizers import SGD
    >>> keras.utils.set_random_seed(0)
    >>> x, y = np.random.normal(size=(64, 3)), np.random.normal(size=(64, 1))
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(SAM(SGD(0.05)), "mse")
    >>> _ = model.fit(SAM.batches(x, y, batch_size=16), shuffle=False, epochs=2, verbose=0)
    >>> int(model.optimizer.iterations)
    8

    References: Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-aware minimization for efficiently
    improving generalization", ICLR 2021; Kwon, Kim, Park and Choi, "ASAM", ICML 2021.
    """

    def __init__(
        self,
        inner_optimizer: Any,
        rho: float = 0.05,
        adaptive: bool = False,
        name: str | None = None,
    ) -> None:
        if not rho > 0:
            raise ValueError(f"SAM needs rho to be greater than 0. Received rho={rho!r}.")
        super().__init__(inner_optimizer, name=name)
        if inner_optimizer.gradient_accumulation_steps:
            raise ValueError(
                "SAM cannot wrap an optimizer with gradient_accumulation_steps: its two steps "
                "would be parts of one sum. Use larger batches."
            )
        self.rho = float(rho)
        self.adaptive = adaptive
        self._calls = self.add_variable(
            shape=(), dtype="int32", aggregation="only_first_replica", name="calls"
        )

    @staticmethod
    def batches(
        x: Any, y: Any, batch_size: int = 32, shuffle: bool = True, seed: int | None = None
    ) -> keras.utils.PyDataset:
        """Returns the rows of two arrays as a data set that gives each batch twice.

        Pass it to `fit` with `shuffle=False`, which would tear the pairs apart; the rows are
        shuffled here.

        Args:
            x: Inputs, an array.
            y: Targets, an array with as many rows.
            batch_size: Rows of a batch.
            shuffle: Whether the rows are shuffled anew in each epoch.
            seed: Seed of the shuffling.
        """
        return _Twice(x, y, batch_size, shuffle, seed)

    def build(self, variables: list[Any]) -> None:
        """Creates the slots that remember where the climb began."""
        super().build(variables)
        self._origin_slots = self._starting_at(variables, "origin")

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Climbs in odd steps; goes back and updates the variables in even ones."""
        if not self.built:
            self.build(list(trainable_variables or []))
        variables = list(trainable_variables or known_variables(self))
        grads = self._of_all_rows(grads)
        climbs = ops.equal(ops.mod(self._calls.value, 2), 0)
        self._calls.assign(self._calls + 1)
        origins = {id(v): s for v, s in zip(known_variables(self), self._origin_slots, strict=True)}
        triples = [
            (dense(g), v, origins[id(v)])
            for g, v in zip(grads, variables, strict=True)
            if g is not None and origins[id(v)] is not None
        ]
        for _, variable, origin in triples:
            here, there = ops.convert_to_tensor(variable), ops.convert_to_tensor(origin)
            variable.assign(ops.where(climbs, here, there))
            origin.assign(ops.where(climbs, here, there))
        self._update_unless(climbs, grads, trainable_variables)
        for climb, (_, variable, _) in zip(self._climb(triples), triples, strict=True):
            variable.assign(variable + ops.where(climbs, climb, ops.zeros_like(climb)))

    def _of_all_rows(self, grads: list[Any]) -> list[Any]:
        """Returns the gradients summed over the replicas, of which each has those of its rows."""
        sums = iter(sum_over_replicas([dense(g) for g in grads if g is not None]))
        return [None if g is None else next(sums) for g in grads]

    def _climb(self, triples: list[tuple[Any, Any, Any]]) -> list[Any]:
        """Returns ε for each variable."""
        gradients = [g for g, _, _ in triples]
        if self.adaptive:
            scales = [ops.abs(ops.convert_to_tensor(origin)) for _, _, origin in triples]
            gradients = [g * s for g, s in zip(gradients, scales, strict=True)]
        length = norm(gradients)
        factor = self.rho / ops.where(length > 0, length, ops.ones_like(length))
        climbs = [ops.cast(factor, g.dtype) * g for g in gradients]
        if self.adaptive:
            climbs = [c * s for c, s in zip(climbs, scales, strict=True)]
        return climbs

    def _update_unless(self, climbs: Any, grads: list[Any], variables: list[Any] | None) -> None:
        inner = self.inner_optimizer
        replicas = num_replicas()
        if keras.backend.backend() == "tensorflow" and replicas == 1:
            ops.cond(climbs, lambda: None, lambda: inner.apply(grads, variables))
            return
        # JAX's cond may have no side effects, and that of replicas no update in common: the update
        # is made and taken back. The inner optimizer sums over the replicas again.
        grads = [None if g is None else g / replicas for g in grads]
        touched = [*known_variables(self), *inner.variables]
        before = [ops.copy(v) for v in touched]
        inner.apply(grads, variables)
        for variable, old in zip(touched, before, strict=True):
            variable.assign(ops.where(climbs, old, ops.convert_to_tensor(variable)))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "rho": self.rho, "adaptive": self.adaptive}


class _Twice(keras.utils.PyDataset):
    def __init__(self, x: Any, y: Any, batch_size: int, shuffle: bool, seed: int | None) -> None:
        super().__init__()
        self.x, self.y = np.asarray(x), np.asarray(y)
        if len(self.x) != len(self.y) or batch_size < 1:
            raise ValueError(
                "SAM.batches needs as many rows of x as of y and a batch_size of at least 1. "
                f"Received {len(self.x)} and {len(self.y)} rows, batch_size={batch_size!r}."
            )
        self.batch_size, self.shuffle = batch_size, shuffle
        self.generator = np.random.default_rng(seed)
        self.order = np.arange(len(self.x))
        self.on_epoch_end()

    def __len__(self) -> int:
        return 2 * -(-len(self.x) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        rows = self.order[index // 2 * self.batch_size :][: self.batch_size]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self) -> None:
        """Shuffles the rows for the next epoch."""
        if self.shuffle:
            self.order = self.generator.permutation(len(self.x))
