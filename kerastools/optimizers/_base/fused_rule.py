"""What an optimizer needs to do its rule with one of TensorFlow's kernels."""

from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import is_distributed
from kerastools.optimizers._base import tf_kernels


class KernelRule:
    """The part of `MutableOptimizer` that knows of TensorFlow's kernels.

    A subclass with a kernel for its rule says so with `has_kernel` and calls it in `fused`.
    """

    # Whether TensorFlow's own kernels may be used.
    fuses = True

    def has_kernel(self) -> bool:
        """Returns whether `fused` can do what the rule says."""
        return False

    def fused(self, theta: Any, g: Any, h: SimpleNamespace, *slots: Any) -> None:
        """Does what the rule says with one of TensorFlow's kernels.

        `theta` and `slots` are variables of one type, that of `g`.
        """
        raise NotImplementedError

    def may_stack(self) -> bool:
        """Returns whether small variables of one shape may be updated in one go."""
        tensorflow = keras.backend.backend() == "tensorflow"
        return self.fuses and tensorflow and not is_distributed()

    def floor_of(self, h: SimpleNamespace, t: Any, floor: Any) -> Any:
        """Returns ε(1 − β₂ᵗ), by how much a velocity V = s + floor is more than s at step t.

        So that √(s/(1 − β₂ᵗ) + ε) = √(V/(1 − β₂ᵗ)) needs no ε: V ← β₂V + (1 − β₂)g² + h.lift. While
        ε stays, that is an average of g² + ε; what is added is written so that nothing cancels.
        """
        last = h.epsilon * h.beta_2.bias(t - 1)
        h.lift = h.epsilon * h.beta_2.complement + h.beta_2.beta * (last - floor)
        # What a kernel's β₂V makes h.lift of. Where β₂ is 0 nothing of V is left to carry it; there
        # the kernel is given 2⁻¹², as good to 3e-4.
        h.carrier = ops.maximum(h.beta_2.beta, 2**-12)
        h.sunk = -h.lift / h.carrier
        return h.epsilon * h.beta_2.bias(t)

    def lift(self: Any, v: Any, h: SimpleNamespace) -> None:
        """Adds to v what makes a kernel's v ← β₂v + (1 − β₂)g² come out as h.lift more."""
        ones = self._now.ones
        key = tuple(v.shape), keras.backend.standardize_dtype(v.dtype)
        if key not in ones:
            ones[key] = ops.ones(*key)
        tf_kernels.subtract(v, h.sunk, ones[key])

    def begin_kernels(self: Any) -> None:
        """Is called before the first `fused` of a step: tensors of the last belong to its graph."""
        self._now.ones = {}

    def decay(self: Any, theta: Any, h: SimpleNamespace) -> None:
        """θ ← (1 − ηλ)θ, before a kernel whose step does not depend on θ."""
        if h.weight_decay is not None and self.decays(theta):
            theta.assign(theta * h.kept)
