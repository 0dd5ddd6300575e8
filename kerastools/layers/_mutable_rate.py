"""What layers with a live drop rate have in common."""

from typing import Any

import keras
from keras import ops


class LiveRateLayer(keras.layers.Layer):
    """Base of layers that drop units with a probability that is a variable.

    A subclass says with `drop(inputs, mask, rate)` what dropping means, and with `mask_shape` which
    elements share their fate.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        rate = _check_rate(rate, type(self).__name__)
        self.seed = seed
        self.supports_masking = True
        self.seed_generator = keras.random.SeedGenerator(seed)
        # Float32 whatever the policy: bfloat16 would round 0.1 to 0.1001.
        self._rate = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(rate),
            dtype="float32",
            trainable=False,
            autocast=False,
            name="rate",
        )
        self.built = True

    @property
    def rate(self) -> Any:
        """The drop probability, a scalar variable; assign a number in [0, 1] to change it."""
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        self._rate.assign(_check_rate(value, type(self).__name__))

    def mask_shape(self, inputs: Any) -> tuple[Any, ...]:
        """Returns the shape of the mask, which is broadcast against `inputs`."""
        return ops.shape(inputs)

    def drop(self, inputs: Any, kept: Any, rate: Any) -> Any:
        """Returns `inputs` where `kept`, and what stands for them elsewhere."""
        raise NotImplementedError

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns `inputs` with units dropped if `training`, else `inputs`."""
        if not training:
            return inputs
        rate = ops.convert_to_tensor(self._rate)
        shape = self.mask_shape(inputs)
        drawn = keras.random.uniform(shape, seed=self.seed_generator, dtype="float32")
        return self.drop(inputs, drawn < 1.0 - rate, rate)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the rate as it is now."""
        # The variable's exact value printed shortly: 0.1 and not 0.10000000149.
        rate = round(float(self._rate.numpy()), 7)
        return {**super().get_config(), "rate": rate, "seed": self.seed}


class NoiseShapeLayer(LiveRateLayer):
    """Base of those that take a `noise_shape`, as Keras's `Dropout` does."""

    def __init__(
        self,
        rate: float,
        noise_shape: tuple[int | None, ...] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(rate, seed, **kwargs)
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)

    def mask_shape(self, inputs: Any) -> tuple[Any, ...]:
        """Returns `noise_shape`, with the inputs' own sizes where it has `None`."""
        shape = ops.shape(inputs)
        if self.noise_shape is None:
            return shape
        pairs = zip(shape, self.noise_shape, strict=True)
        return tuple(actual if wanted is None else wanted for actual, wanted in pairs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the rate as it is now."""
        return {**super().get_config(), "noise_shape": self.noise_shape}


def scaled(inputs: Any, kept: Any, rate: Any) -> Any:
    """Returns `inputs` / (1 − rate) where `kept`, else 0."""
    # At rate 1 nothing is kept: 0 / 0 must not reach the output.
    scale = ops.cast(kept, "float32") * (1.0 / ops.maximum(1.0 - rate, 1e-7))
    return inputs * ops.cast(scale, inputs.dtype)


def _check_rate(rate: Any, name: str) -> float:
    value = float(rate)
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"{name} needs a rate in [0, 1], the probability that a unit is dropped. Received "
            f"rate={value:g}. For 30 % pass 0.3."
        )
    return value
