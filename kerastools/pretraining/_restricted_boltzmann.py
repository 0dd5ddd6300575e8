"""The restricted Boltzmann machine, trained by contrastive divergence."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.checks import require_at_least
from kerastools._core.registration import register
from kerastools._core.replicas import drawn_for_rows, mean_over_replicas
from kerastools.pretraining._rows import check_rows

_VISIBLE = ("bernoulli", "gaussian")


@register
class RestrictedBoltzmann(keras.Model):
    """A layer of hidden bits that models the distribution of its input; learns without labels.

    The block of the historic pretraining: `pretrain_deep_belief` stacks machines and starts a
    `Dense` stack from their weights. It is a model of its own, `compile(optimizer)` and `fit(x)`,
    and a layer, which returns the probabilities of the hidden bits. For Adam a learning rate of
    0.001 to 0.01 does; for plain SGD 0.01 to 0.1. With visible units v, hidden bits h, weights W
    and biases b, c:

        bernoulli:  E(v, h) = −b·v − vWh − c·h,        v in {0, 1} or probabilities
        gaussian:   E(v, h) = ‖v − b‖²/2 − vWh − c·h,  v of unit variance per feature
        p(v) ∝ Σₕ exp(−E(v, h)) = exp(−F(v))
        F(v) = −b·v − Σⱼ log(1 + exp((vW + c)ⱼ)), or with ‖v − b‖²/2 in place of −b·v
        p(hⱼ = 1 | v) = σ(vW + c)ⱼ
        p(vᵢ = 1 | h) = σ(hWᵀ + b)ᵢ, or v | h ~ N(hWᵀ + b, 1)

    The gradient of −log p is ∂F(v)/∂θ − E_model[∂F/∂θ]. The second term is estimated by Gibbs
    sampling of `gibbs_steps` steps, from the data (CD-k) or from `num_chains` chains that go on
    from batch to batch (persistent, PCD). So one step follows the gradient of

        J = mean F(v) − mean F(ṽ),   ṽ a sample, held constant

    J is not a measure of progress, for ṽ changes with the model. `fit` reports what is: the mean
    `free_energy` of the rows (compare it between training and validation rows: when the gap grows,
    the machine overfits), the mean squared `reconstruction_error` of one step down and up without
    sampling, and for bits the `pseudo_likelihood`, an estimate of Σᵢ log p(vᵢ | the others) from
    one random i per row, which rises to 0 at best.

    Args:
        units: Number of hidden bits.
        visible: `"bernoulli"` or `"gaussian"`.
        gibbs_steps: k, the steps of sampling per update, at least 1.
        num_chains: Number of persistent chains; `None` for CD-k.
        kernel_initializer: Of W. By default normal with standard deviation 0.01.
        seed: Integer that fixes weights and sampling. By default drawn at random.
        **kwargs: `name`, `dtype` and `trainable`, as in every `keras.Model`.

    Call arguments:
        inputs: Visible units of shape `(rows, features)`.

    Output shape:
        `(rows, units)`: p(h = 1 | v).

    Raises:
        ValueError: If a number or `visible` is out of range; in `fit`, if there are labels, x holds
            NaN, has another shape, or lies outside [0, 1] for Bernoulli units.

    Example:

    >>> rows = np.random.default_rng(1).integers(0, 2, size=(200, 1)) * np.ones((1, 6))
    >>> rbm = RestrictedBoltzmann(4, seed=1)
    >>> rbm.compile(keras.optimizers.Adam(0.05))
    >>> history = rbm.fit(rows, epochs=40, verbose=0).history
    >>> history["pseudo_likelihood"][0] < -4 < -1 < history["pseudo_likelihood"][-1] < 0
    True

    References: Hinton, "Training products of experts by minimizing contrastive divergence", Neural
    Computation 2002; Tieleman, "Training restricted Boltzmann machines using approximations to the
    likelihood gradient", ICML 2008; Hinton, "A practical guide to training restricted Boltzmann
    machines", 2010.
    """

    def __init__(
        self,
        units: int,
        visible: str = "bernoulli",
        gibbs_steps: int = 1,
        num_chains: int | None = None,
        kernel_initializer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_at_least(1, "RestrictedBoltzmann", units=units, gibbs_steps=gibbs_steps)
        if num_chains is not None:
            require_at_least(1, "RestrictedBoltzmann", num_chains=num_chains)
        if visible not in _VISIBLE:
            raise ValueError(
                f"RestrictedBoltzmann needs visible to be one of {_VISIBLE}. "
                f"Received visible={visible!r}."
            )
        self.units = units
        self.visible = visible
        self.gibbs_steps = gibbs_steps
        self.num_chains = num_chains
        self.seed = seed
        self.kernel_initializer = keras.initializers.get(
            kernel_initializer or keras.initializers.RandomNormal(stddev=0.01, seed=seed)
        )
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._monitors = [keras.metrics.Mean(name=name) for name in self._monitor_names()]

    def build(self, input_shape: Any) -> None:
        """Creates W, b, c and the chains."""
        num_visible = input_shape[-1]
        self.kernel = self.add_weight(
            shape=(num_visible, self.units), initializer=self.kernel_initializer, name="kernel"
        )
        self.visible_bias = self.add_weight(
            shape=(num_visible,), initializer="zeros", name="visible_bias"
        )
        self.hidden_bias = self.add_weight(
            shape=(self.units,), initializer="zeros", name="hidden_bias"
        )
        if self.num_chains is not None:
            self.chains = self.add_weight(
                shape=(self.num_chains, num_visible),
                initializer="zeros",
                trainable=False,
                name="chains",
            )

    def call(self, inputs: Any) -> Any:
        """Returns p(h = 1 | v)."""
        return ops.sigmoid(self._to_hidden(inputs))

    def free_energy(self, v: Any) -> Any:
        """Returns F(v) = −log p(v), up to a constant, for each row."""
        v = ops.convert_to_tensor(v, dtype=self.variable_dtype)
        if self.visible == "gaussian":
            own = 0.5 * ops.sum(ops.square(v - self.visible_bias), axis=-1)
        else:
            own = -ops.sum(v * self.visible_bias, axis=-1)
        return own - ops.sum(ops.softplus(self._to_hidden(v)), axis=-1)

    def gibbs(self, v: Any, steps: int = 1) -> Any:
        """Returns the visible units after `steps` of sampling h from v and v from h."""
        return self._gibbs(v, steps, drawn_for_rows)

    def reconstruct(self, v: Any) -> Any:
        """Returns the mean of the visible units, given the probabilities of the hidden."""
        v = ops.convert_to_tensor(v, dtype=self.variable_dtype)
        return self._mean_visible(ops.sigmoid(self._to_hidden(v)))

    def pseudo_likelihood(self, v: Any) -> Any:
        """Returns n · log p(vᵢ | the others) for each row, with one random i of the n bits."""
        v = ops.convert_to_tensor(v, dtype=self.variable_dtype)
        num_visible = v.shape[-1]
        seed = self.seed_generator
        chosen = drawn_for_rows(
            lambda shape: keras.random.randint(shape, 0, num_visible, seed=seed), (ops.shape(v)[0],)
        )
        flip = ops.one_hot(chosen, num_visible, dtype=v.dtype)
        flipped = v * (1 - flip) + (1 - v) * flip
        gap = self.free_energy(flipped) - self.free_energy(v)
        return num_visible * ops.log_sigmoid(gap)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns J, whose gradient is that of contrastive divergence."""
        v = ops.cast(x, self.variable_dtype)
        if self.num_chains is None:
            sample = self.gibbs(v, self.gibbs_steps)
        else:  # Every replica has all chains, and draws the same numbers for them.
            chains = ops.cast(self.chains, self.variable_dtype)
            sample = self._gibbs(chains, self.gibbs_steps, lambda draw, shape: draw(shape))
        sample = ops.stop_gradient(sample)
        if training and self.num_chains is not None:
            self.chains.assign(sample)
        energy = self.free_energy(v)
        values = [energy, ops.square(v - self.reconstruct(v))]
        if self.visible == "bernoulli":
            values.append(self.pseudo_likelihood(v))
        for monitor, value in zip(self._monitors, values, strict=True):
            monitor.update_state(value)
        return mean_over_replicas(energy) - mean_over_replicas(self.free_energy(sample))

    def fit(self, x: Any = None, y: Any = None, **kwargs: Any) -> Any:
        """Trains on rows `x` without labels; all else as in `keras.Model.fit`."""
        if y is not None:
            raise ValueError(
                "RestrictedBoltzmann learns without labels. Received y. Call fit(x, ...)."
            )
        if isinstance(x, np.ndarray | list | tuple):
            num_visible = self.kernel.shape[0] if self.built else None
            x = check_visible(x, (num_visible,), self.visible, 1, "RestrictedBoltzmann")
        return super().fit(x, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "visible": self.visible,
            "gibbs_steps": self.gibbs_steps,
            "num_chains": self.num_chains,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
        }

    def _monitor_names(self) -> list[str]:
        names = ["free_energy", "reconstruction_error"]
        return [*names, "pseudo_likelihood"] if self.visible == "bernoulli" else names

    def _to_hidden(self, v: Any) -> Any:
        return ops.matmul(v, self.kernel) + self.hidden_bias

    def _mean_visible(self, h: Any) -> Any:
        mean = ops.matmul(h, ops.transpose(self.kernel)) + self.visible_bias
        return mean if self.visible == "gaussian" else ops.sigmoid(mean)

    def _gibbs(self, v: Any, steps: int, drawn: Callable[..., Any]) -> Any:
        """Samples; `drawn` takes a function of a shape that draws, and the shape."""
        v = ops.convert_to_tensor(v, dtype=self.variable_dtype)
        options = {"seed": self.seed_generator, "dtype": v.dtype}
        uniform, normal = (
            partial(f, **options) for f in (keras.random.uniform, keras.random.normal)
        )

        def bits(probability: Any) -> Any:
            chance = drawn(uniform, ops.shape(probability))
            return ops.cast(chance < probability, probability.dtype)

        for _ in range(steps):
            mean = self._mean_visible(bits(ops.sigmoid(self._to_hidden(v))))
            v = bits(mean) if self.visible == "bernoulli" else mean + drawn(normal, ops.shape(mean))
        return v


def check_visible(
    x: Any, shape: tuple[int | None, ...], visible: str, batch_size: int, caller: str
) -> np.ndarray:
    """Returns `x` as float32, or raises unless it is rows that such visible units can take."""
    array = check_rows(x, shape, batch_size, caller)
    if visible == "bernoulli" and (array.min() < 0 or array.max() > 1):
        raise ValueError(
            f"{caller} needs x in [0, 1] for Bernoulli visible units. Received x from "
            f'{array.min():g} to {array.max():g}. Rescale it, or use visible="gaussian" with '
            "standardised features."
        )
    return array
