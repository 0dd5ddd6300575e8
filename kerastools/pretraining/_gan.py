"""A generative adversarial net whose discriminator is what is wanted."""

from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import num_replicas
from kerastools._core.registration import register
from kerastools._core.replicas import drawn_for_rows, mean_over_replicas


@register
class GAN(keras.Model):
    """A generator and a discriminator that learn from each other, both from unlabelled rows.

    `pretrain_gan` builds and trains one; its discriminator's lower layers are then reused. It is
    trained with `compile(optimizer)` and `fit(x)`. Both nets take their step at once, from one
    backward pass and with one optimizer; Adam with learning rate 0.0003 to 0.001 and `beta_1=0.5`
    does. With logits D(x), generated rows G(z), z ~ N(0, I), and n ~ N(0, I):

        J_D = mean softplus(−D(x)) + mean softplus(D(G(z))) + penalty/2 · R
        J_G = mean softplus(−D(G(z)))                        (non-saturating)
        R   = mean ((D(x + εn) − D(x)) / ε)²  →  mean ‖∇D(x)‖² for ε → 0

    R is the gradient penalty R1, without which such training goes in circles around its
    equilibrium; in finite differences it needs no second derivative and runs on every backend.

    `fit` reports `discriminator_loss` and `generator_loss`. At equilibrium, where the two cannot be
    told apart, they are 2 ln 2 ≈ 1.386 and ln 2 ≈ 0.693.

    Args:
        discriminator: A built model from rows to one logit.
        generator: A built model from z to rows.
        penalty: Weight of R, at least 0; in units of 1/D² for rows of about unit scale.
        seed: Integer that fixes z and n. By default drawn at random.
        **kwargs: `name`, `dtype` and `trainable`, as in every `keras.Model`.

    Call arguments:
        inputs: Rows.

    Output shape:
        `(rows, 1)`: the discriminator's logits, positive for what it takes to be real.

    Raises:
        ValueError: If the two models do not fit each other, or `penalty` is negative.

    Example:

    >>> discriminator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> generator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> gan = GAN(discriminator, generator, seed=1)
    >>> gan.compile(keras.optimizers.Adam(1e-3, beta_1=0.5))
    >>> history = gan.fit(np.ones((32, 2)), epochs=1, verbose=0).history
    >>> sorted(history)
    ['discriminator_loss', 'generator_loss', 'loss']
    >>> gan.generate(5, seed=1).shape
    (5, 2)

    References: Goodfellow et al., "Generative adversarial nets", NeurIPS 2014; Mescheder, Geiger
    and Nowozin, "Which training methods for GANs do actually converge?", ICML 2018 (R1); Radford,
    Metz and Chintala, "Unsupervised representation learning with deep convolutional generative
    adversarial networks", ICLR 2016 (the discriminator reused).
    """

    def __init__(
        self,
        discriminator: keras.Model,
        generator: keras.Model,
        penalty: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        rows, made = discriminator.input_shape, generator.output_shape
        if tuple(discriminator.output_shape) != (None, 1) or tuple(made) != tuple(rows):
            raise ValueError(
                "GAN needs a discriminator that returns one logit per row, and a generator that "
                "returns what the discriminator takes. Received a discriminator from "
                f"{tuple(rows)} to {tuple(discriminator.output_shape)} and a generator of "
                f"{tuple(made)}."
            )
        if not 0 <= penalty < float("inf"):
            raise ValueError(f"GAN needs penalty >= 0. Received penalty={penalty}.")
        self.discriminator = discriminator
        self.generator = generator
        self.penalty = penalty
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self._discriminator_loss = keras.metrics.Mean(name="discriminator_loss")
        self._generator_loss = keras.metrics.Mean(name="generator_loss")
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns the discriminator's logits."""
        return self.discriminator(inputs, training=training)

    def generate(self, num_rows: int, seed: int | None = None) -> np.ndarray:
        """Returns `num_rows` generated rows."""
        shape = (num_rows, *self.generator.input_shape[1:])
        z = np.random.default_rng(seed).standard_normal(shape, dtype="float32")
        return np.asarray(self.generator.predict(z, verbose=0))

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Returns J_D + J_G, each a function of its own net's weights alone."""
        x = ops.cast(x, self.compute_dtype)
        z = self._normal((ops.shape(x)[0], *self.generator.input_shape[1:]))
        made = self.generator(z, training=training)
        judged = self.discriminator(ops.stop_gradient(made), training=training)
        mean = mean_over_replicas
        loss_d = mean(ops.softplus(-y_pred)) + mean(ops.softplus(judged))
        loss_g = mean(ops.softplus(-self._judge_held(made, training)))
        self._discriminator_loss.update_state(loss_d * num_replicas())
        self._generator_loss.update_state(loss_g * num_replicas())
        if self.penalty:
            loss_d = loss_d + 0.5 * self.penalty * self._roughness(x)
        return loss_d + loss_g

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "discriminator": keras.saving.serialize_keras_object(self.discriminator),
            "generator": keras.saving.serialize_keras_object(self.generator),
            "penalty": self.penalty,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "GAN":
        """Returns the model that `get_config` described."""
        models = {
            name: keras.saving.deserialize_keras_object(config[name], custom_objects)
            for name in ("discriminator", "generator")
        }
        return cls(**{**config, **models})

    def _judge_held(self, made: Any, training: bool) -> Any:
        """Returns the logits of generated rows, with no gradient to the discriminator's weights."""
        held = [ops.stop_gradient(v) for v in self.discriminator.trainable_variables]
        state = self.discriminator.non_trainable_variables
        return self.discriminator.stateless_call(held, state, made, training=training)[0]

    def _roughness(self, x: Any) -> Any:
        """Returns R, for which random layers are switched off: their noise is no slope."""
        step = 0.01
        moved = x + step * self._normal(ops.shape(x))
        slope = (self.discriminator(moved) - self.discriminator(x)) / step
        return mean_over_replicas(ops.square(slope))

    def _normal(self, shape: Any) -> Any:
        def draw(shape: Any) -> Any:
            return keras.random.normal(shape, seed=self.seed_generator, dtype=self.compute_dtype)

        return drawn_for_rows(draw, shape)
