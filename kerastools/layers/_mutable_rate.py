"""What the layers with a mutable drop rate have in common."""

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.keras_private.training import is_detached

_ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


class MutableRateLayer(keras.layers.Layer):
    """Mixin that turns a dropout layer of Keras into one whose rate may change while it trains.

    The compiled step reads what the rate stands for from a variable that is state of the layer, as
    the state of its seed generator is, but no weight: it is in `variables`, which is what Keras's
    trainers pass to their steps, and not in `weights`. So a weights file is that of Keras's layer.

    A subclass names Keras's layer as its second base, says with `numbers(rate)` what its arithmetic
    needs of the rate, with `mask_shape(shape)` which elements are dropped together, and with `drop`
    what dropping means.
    """

    def __init__(self, rate: float, *args: Any, **kwargs: Any) -> None:
        # At rate 0 Keras makes no seed generator, and a later rate needs one.
        super().__init__(rate or 0.5, *args, **kwargs)
        self.rate = rate
        shape = getattr(self, "noise_shape", None) or ()
        if not isinstance(shape, list | tuple) or not all(
            size is None or (isinstance(size, int) and size > 0) for size in shape
        ):
            raise ValueError(
                f"{type(self).__name__} needs noise_shape to be a tuple of sizes and None. "
                f"Received noise_shape={shape!r}."
            )

    @property
    def rate(self) -> float:
        """The drop probability; assign a number in [0, 1] to change it, also during `fit`."""
        given = self._mutable.given
        if is_detached(self.rate_variable):
            return given
        held = np.float32(self.rate_variable.numpy()[0])
        # It may have been assigned with the rest of the model's state.
        return given if np.float32(given) == held else float(str(held))

    @rate.setter
    def rate(self, value: float) -> None:
        rate = float(value)
        if not 0.0 <= rate <= 1.0:
            raise ValueError(
                f"{type(self).__name__} needs a rate in [0, 1], the probability that a unit is "
                f"dropped. Received rate={rate:g}. For 30 % pass 0.3."
            )
        numbers = np.array([rate, *self.numbers(rate)])
        if not hasattr(self, "_mutable"):
            # In a namespace, so that Keras does not track the variable as a weight.
            self._mutable = SimpleNamespace(given=rate, variable=self._variable(numbers))
            return
        if is_detached(self.rate_variable):
            raise ValueError(
                f'The rate of layer "{self.name}" cannot be set now: on JAX, fit holds the state '
                f"of the model within an epoch. Received rate={rate:g}. Call "
                "model.jax_state_sync() first; reading self.model in a callback does it."
            )
        self.rate_variable.assign(numbers)
        self._mutable.given = rate

    @property
    def rate_variable(self) -> keras.Variable:
        """The variable that the compiled step reads: the rate, and `numbers` of it."""
        return self._mutable.variable

    @property
    def variables(self) -> list[Any]:
        """All state of the layer: that of its seed generator and the rate, which are no weights."""
        return [*super().variables, self.rate_variable]

    def numbers(self, rate: float) -> tuple[float, ...]:
        """Returns what `drop` needs besides the rate."""
        raise NotImplementedError

    def mask_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns the shape of the random numbers for inputs of `shape`, which they broadcast to.

        It is `noise_shape`, with the inputs' own sizes where that has `None`.
        """
        wanted = tuple(self.noise_shape or (None,) * len(shape))
        fits = len(wanted) == len(shape) and all(
            size in (None, 1) or not isinstance(actual, int) or size == actual
            for size, actual in zip(wanted, shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f'Layer "{self.name}" needs a noise_shape with an entry for each axis of its '
                "inputs: None or the axis's size, or 1 to drop along the whole axis. Received "
                f"noise_shape={wanted} and inputs of shape {tuple(shape)}."
            )
        return tuple(a if size is None else size for a, size in zip(shape, wanted, strict=True))

    def drop(self, inputs: Any, drawn: Any, rate: Any, *numbers: Any) -> Any:
        """Returns `inputs` with units dropped, by random numbers `drawn` from [0, 1)."""
        raise NotImplementedError

    def drawn_dtype(self, inputs: Any) -> str:
        """Returns the dtype of the random numbers."""
        return keras.config.floatx()

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Returns `inputs` with units dropped if `training`, else `inputs`."""
        if not training:
            return inputs
        shape = self.mask_shape(tuple(ops.shape(inputs)))
        dtype = self.drawn_dtype(inputs)
        drawn = keras.random.uniform(shape, dtype=dtype, seed=self.seed_generator)
        return self.drop(inputs, drawn, *ops.unstack(self.rate_variable.value))

    def _variable(self, numbers: np.ndarray) -> keras.Variable:
        with keras.name_scope(self.name):
            return keras.Variable(
                # A function, so that the layer can be made while Keras traces.
                lambda shape, dtype: ops.convert_to_tensor(numbers, dtype),
                shape=numbers.shape,
                # At least float32: half precision would round the rate.
                dtype=keras.backend.result_type(self.variable_dtype, "float32"),
                trainable=False,
                autocast=False,
                name="rate",
            )


class ScaledDropout(MutableRateLayer):
    """Base of those that set units to 0 and scale the others by 1 / q, with q = 1 − rate.

    Bitwise as Keras does it on each backend: which of the random numbers drop, their dtype, and
    whether units are multiplied or divided differ between the two.
    """

    def numbers(self, rate: float) -> tuple[float, ...]:
        """Returns 1 / q on TensorFlow and q on JAX."""
        # At rate 1 no unit is kept, and 0 / 0 must not reach the output.
        return (1 / max(1 - rate, 1e-7) if _ON_TENSORFLOW else 1 - rate,)

    def drawn_dtype(self, inputs: Any) -> str:
        """Returns the dtype of the random numbers."""
        return keras.backend.standardize_dtype(inputs.dtype) if _ON_TENSORFLOW else "float32"

    def drop(self, inputs: Any, drawn: Any, rate: Any, *numbers: Any) -> Any:
        """Returns `inputs` / q where a unit is kept, else 0."""
        (number,) = numbers
        if _ON_TENSORFLOW:
            kept = drawn >= ops.cast(rate, drawn.dtype)
            scaled = inputs * ops.cast(number, inputs.dtype)
        else:
            kept = drawn < number
            scaled = inputs / ops.cast(ops.maximum(number, 1e-7), inputs.dtype)
        return ops.where(kept, scaled, ops.zeros((), inputs.dtype))
