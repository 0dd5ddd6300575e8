"""What every optimizer here has in common: live numbers, one rule, clipping, decay."""

from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import before_training, dense
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.clipping import clip_by_value, clip_to_norm, clip_units, norm
from kerastools.optimizers._base.evaluation_point import EvaluationPoint
from kerastools.optimizers._base.fused_rule import KernelRule
from kerastools.optimizers._base.hyperparameter import Hyperparameter
from kerastools.optimizers._base.mutable_hyperparameters import LiveNumbers
from kerastools.optimizers._base.param_groups import assign_groups
from kerastools.optimizers._base.per_variable import UnstackCache, VariableView, is_half, wide
from kerastools.optimizers._base.slot_builder import SlotBuilder
from kerastools.optimizers._base.slot_rows import Row, Stack
from kerastools.optimizers._base.slots import known_variables

_OTHER_KERAS_ARGUMENTS = (
    "use_ema",
    "ema_momentum",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "name",
)


class MutableOptimizer(KernelRule, EvaluationPoint, LiveNumbers, SlotBuilder):
    """Base of the optimizers of this package: a subclass is its slots and its rule.

    Once per update `advance(h, *scalar_slots)` works out what is one number per variable (step
    counts, corrections of the bias) for all variables together. Then `rule(g, h, *slots)` is given
    each variable's gradient, its numbers and its slots, and returns the step Δ and the slots anew:
    θ ← θ − Δ − ηλθ with decoupled weight decay λ. All of it is computed in float32 at least,
    whatever the variable's type; variables of lower precision have a float32 twin, the slot
    `master`. Where TensorFlow has a kernel for the rule, `fused` does the same (`KernelRule`).

    Every slot is one variable per trainable variable, in the list `<name>_slots` in the order in
    which the optimizer was built. Every scalar slot is one vector with a number per variable; step
    counts are such slots, so that a variable which joins late has its own.
    """

    weight_decay = Hyperparameter("[0, inf)")
    clipvalue = Hyperparameter("(0, inf]")
    clipnorm = Hyperparameter("(0, inf]")
    global_clipnorm = Hyperparameter("(0, inf]")
    adaptive_clipnorm = Hyperparameter("(0, inf]")

    # Names of the slots, first those of one number per variable.
    scalar_slots: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    # Whether the rule itself makes use of h.decay, which is λθ or None.
    decays_in_rule = False

    def __init__(
        self,
        learning_rate: Any,
        weight_decay: float | None = None,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        adaptive_clipnorm: float | None = None,
        skip_nonfinite: bool = False,
        param_groups: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        unknown = set(kwargs) - set(_OTHER_KERAS_ARGUMENTS)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {sorted(unknown)}.")
        super().__init__(learning_rate, param_groups, **kwargs)
        # Not attributes of their own: Keras would track the variables in them.
        self._now = SimpleNamespace(h=None, unstacked=None, finite=None, fuses=False, ones={})
        self.weight_decay = weight_decay
        self.clipvalue = clipvalue
        self.clipnorm = clipnorm
        self.global_clipnorm = global_clipnorm
        self.adaptive_clipnorm = adaptive_clipnorm
        self.skip_nonfinite = skip_nonfinite
        if skip_nonfinite or global_clipnorm is not None:
            self._gradient_norm = self.add_reading("gradient_norm", "float32")
            self._clipped_steps = self.add_reading("clipped_steps", "int32")
            self._skipped_steps = self.add_reading("skipped_steps", "int32")
        if self.use_ema:
            self.add_evaluation_point()

    def advance(self, h: SimpleNamespace, *scalar_slots: Any) -> tuple[Any, ...]:
        """Adds to h what the rule needs of one number per variable; returns these slots anew."""
        return ()

    def rule(self, g: Any, h: SimpleNamespace, *slots: Any) -> tuple[Any, ...]:
        """Returns the step Δ that is subtracted from the weights, and the slots anew."""
        raise NotImplementedError

    @property
    def gradient_norm(self) -> Any:
        """Norm of all gradients in the last step, before clipping; a scalar variable.

        Known where it is needed, with `global_clipnorm` or `skip_nonfinite`, else `None`.
        `global_clipnorm=float("inf")` clips nothing and asks for it.
        """
        return getattr(self, "_gradient_norm", None)

    @property
    def clipped_steps(self) -> Any:
        """Number of steps that `global_clipnorm` has shortened, or `None`; a scalar variable."""
        return getattr(self, "_clipped_steps", None)

    @property
    def skipped_steps(self) -> Any:
        """Number of steps that `skip_nonfinite` has left out, or `None`; a scalar variable."""
        return getattr(self, "_skipped_steps", None)

    def build(self, variables: list[Any]) -> None:
        """Creates the slots of `variables`."""
        if self.built:
            return
        groups = assign_groups(self, self.param_groups, variables, self.declared())
        super().build(variables)
        self.lay_out(variables, stacks=self.may_stack())
        for name in self.scalar_slots:
            setattr(self, f"{name}_slots", self.add_vector(name, len(variables)))
        for name in self.slots:
            setattr(self, f"{name}_slots", self.add_slots(name, variables))
        if any(map(is_half, variables)):
            self.master_slots = [self.add_master(v) for v in variables]
        if groups is not None:
            self.group_slots = self.add_vector("group", len(variables), "int32")
            with before_training():
                self.group_slots.assign(groups)

    def begin_update(self, variables: list[Any], learning_rate: Any) -> None:
        """Works out the numbers of this update, for all variables at once."""
        fuses = self.fuses and self.has_kernel() and self._now.finite is None
        self._now.fuses = fuses and tf_kernels.available()
        h = self.hyperparameters(learning_rate, self.scalar_dtype, rounds=self._now.fuses)
        old = [getattr(self, f"{name}_slots") for name in self.scalar_slots]
        new = self.advance(h, *map(ops.convert_to_tensor, old))
        for slot, value in zip(old, new, strict=True):
            slot.assign(self._where_moved(variables, value, slot))
        self._now.h = h
        self._now.unstacked = UnstackCache(len(known_variables(self)))
        self.begin_kernels()

    def update_all(self, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
        """Moves the variables: stacks of which every variable has a gradient, then the others."""
        left = {self.index_of(v): (g, v) for g, v in zip(gradients, variables, strict=True)}
        for stack in self.stacks:
            if left.keys() >= set(stack.indices):
                self.update_stack(stack, *zip(*map(left.pop, stack.indices), strict=True))
        for gradient, variable in left.values():
            self.update_step(gradient, variable, learning_rate)

    def update_stack(
        self, stack: Stack, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> None:
        """Moves the variables of a stack by the rule, which is the same for each element."""
        h = VariableView(self._now.h, stack.number, stack.dtype)
        gs = [ops.cast(g, stack.dtype) for g in gradients]
        if h.adaptive_clipnorm is not None:
            gs = [clip_units(g, v, h.adaptive_clipnorm) for g, v in zip(gs, variables, strict=True)]
        h.decay = None
        if h.weight_decay is not None and any(map(self.decays, variables)):
            h.decay = h.weight_decay * ops.stack(variables)
            if not all(map(self.decays, variables)):
                kept = ops.convert_to_tensor([float(self.decays(v)) for v in variables])
                h.decay = h.decay * stack.column(ops.cast(kept, stack.dtype))
        delta, *new_slots = self.rule(ops.stack(gs), h, *map(ops.convert_to_tensor, stack.slots))
        if h.decay is not None and not self.decays_in_rule:
            delta = delta + h.learning_rate * h.decay
        for variable, step in zip(variables, ops.unstack(delta, len(gs)), strict=True):
            variable.assign_sub(step, read_value=False)
        for old, new in zip(stack.slots, new_slots, strict=True):
            old.assign(new)

    def update_allowed(self) -> Any:
        """Returns whether all gradients are finite, if `skip_nonfinite`."""
        # The whole update is left out; the rule need not look.
        finite, self._now.finite = self._now.finite, None
        return finite

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves `variable` by the rule; its learning rate is already among its numbers."""
        index = self.index_of(variable)
        slots = self.slots_of(index)
        dtype = wide(variable)
        h = VariableView(self._now.h, partial(self._now.unstacked.at, index), dtype)
        g = ops.cast(gradient, dtype)
        if h.adaptive_clipnorm is not None:
            g = clip_units(g, ops.cast(variable, dtype), h.adaptive_clipnorm)
        decays = h.weight_decay is not None and self.decays(variable)
        if self._now.fuses and not is_half(variable) and not isinstance(slots[0], Row):
            self.fused(variable, g, h, *slots)
            return

        master = self.master_slots[index] if is_half(variable) else None
        theta = ops.cast(variable, dtype)
        if master is not None:
            # Where the variable is no longer its twin's rounding, somebody else has set it.
            rounded = ops.cast(master, variable.dtype)
            theta = ops.where(ops.equal(rounded, variable), ops.cast(master, dtype), theta)
        h.decay = h.weight_decay * theta if decays else None
        delta, *new_slots = self.rule(g, h, *(ops.cast(slot, dtype) for slot in slots))
        if decays and not self.decays_in_rule:
            delta = delta + h.learning_rate * h.decay
        theta = theta - delta
        olds, news = [variable, *slots], [theta, *new_slots]
        if master is not None:
            olds, news = [*olds, master], [*news, theta]
        for old, new in zip(olds, news, strict=True):
            if self._now.finite is not None:
                new = ops.where(self._now.finite, new, ops.cast(old, dtype))
            self.assign(old, new)

    def update_averages(self, moved: Any) -> None:
        """Moves the averages of the constrained weights where the weights moved."""
        if self.skip_nonfinite:
            moved = ops.logical_and(moved, ops.isfinite(self._gradient_norm.value))
        first = ops.equal(self.iterations, 1)
        for variable, average in self.averages():
            old = ops.convert_to_tensor(average)
            momentum = ops.where(first, 0.0, ops.cast(self.ema_momentum, old.dtype))
            new = old + (1 - momentum) * (ops.cast(variable, old.dtype) - old)
            if variable.constraint is not None:
                new = variable.constraint(new)
            average.assign(ops.where(moved, new, old))

    def evaluation_pairs(self) -> list[tuple[Any, Any]]:
        """Returns each variable with what stands in for it in evaluation: its average."""
        return self.averages() if self.use_ema else []

    def clip_gradients(self, gradients: list[Any]) -> list[Any]:
        """Clips by value, then each gradient's norm, then the norm of all; those that are set."""
        gradients = [dense(g) for g in gradients]
        length = None
        if self.gradient_norm is not None:
            length = norm(gradients)
            self._gradient_norm.assign(ops.cast(length, "float32"))
            skipped = ops.logical_not(ops.isfinite(length)) if self.skip_nonfinite else False
            self._skipped_steps.assign_add(ops.cast(skipped, "int32"))
            self._now.finite = ops.logical_not(skipped) if self.skip_nonfinite else None
        if self.clipvalue is not None:
            gradients = [clip_by_value(g, self.clipvalue) for g in gradients]
            length = None
        if self.clipnorm is not None:
            gradients = [clip_to_norm([g], self.clipnorm)[0] for g in gradients]
            length = None
        if self.global_clipnorm is not None:
            length = norm(gradients) if length is None else length
            clipped = ops.isfinite(length) & (length > ops.cast(self.global_clipnorm, length.dtype))
            self._clipped_steps.assign_add(ops.cast(clipped, "int32"))
            gradients = clip_to_norm(gradients, self.global_clipnorm, length)
        return gradients

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        return super().get_config() | {"skip_nonfinite": self.skip_nonfinite}

    def _where_moved(self, variables: list[Any], new: Any, slot: Any) -> Any:
        """Returns `new` for the variables that are updated now, else what `slot` holds."""
        old = ops.convert_to_tensor(slot)
        moved = {int(self.index_of(v)) for v in variables}
        if len(moved) < len(known_variables(self)):
            mask = np.isin(np.arange(len(known_variables(self))), list(moved))
            new = ops.where(ops.convert_to_tensor(mask), new, old)
        if self._now.finite is not None:
            new = ops.where(self._now.finite, new, old)
        return new
