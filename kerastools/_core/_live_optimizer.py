"""What every optimizer here has in common: live numbers, one rule, clipping, decay."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core import _kernels
from kerastools._core._clipping import clip_by_value, clip_to_norm, clip_units, norm
from kerastools._core._evaluation_point import EvaluationPoint
from kerastools._core._hyperparameter import Average, Hyperparameter, check, overridden, shortest
from kerastools._core._kernel_rule import KernelRule
from kerastools._core._optimizer_hooks import OptimizerHooks, before_training, dense
from kerastools._core._param_groups import assign_groups, group_numbers, set_group_number
from kerastools._core._per_variable import cast_number, is_half, rows, wide
from kerastools._core._slots import known_variables, learning_rate_source

_OTHER_KERAS_ARGUMENTS = (
    "use_ema",
    "ema_momentum",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "name",
)


_RATE = ("[0, inf)", "learning_rate")


class LiveOptimizer(KernelRule, EvaluationPoint, OptimizerHooks):
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
        super().__init__(learning_rate=check(learning_rate, *_RATE, self), **kwargs)
        # Not attributes of their own: Keras would track the variables in them.
        self._now = SimpleNamespace(numbers=[], finite=None, fuses=False, ones={})
        self._fixed = SimpleNamespace(rate_factors={})
        self.weight_decay = weight_decay
        self.clipvalue = clipvalue
        self.clipnorm = clipnorm
        self.global_clipnorm = global_clipnorm
        self.adaptive_clipnorm = adaptive_clipnorm
        self.skip_nonfinite = skip_nonfinite
        self._fixed.param_groups = tuple(param_groups)
        if skip_nonfinite or global_clipnorm is not None:
            self._gradient_norm = self._add_reading("gradient_norm", "float32")
            self._clipped_steps = self._add_reading("clipped_steps", "int32")
            self._skipped_steps = self._add_reading("skipped_steps", "int32")
        if self.use_ema:
            self.add_evaluation_point()

    def advance(self, h: SimpleNamespace, *scalar_slots: Any) -> tuple[Any, ...]:
        """Adds to h what the rule needs of one number per variable; returns these slots anew."""
        return ()

    def rule(self, g: Any, h: SimpleNamespace, *slots: Any) -> tuple[Any, ...]:
        """Returns the step Δ that is subtracted from the weights, and the slots anew."""
        raise NotImplementedError

    @property
    def learning_rate(self) -> Any:
        """The learning rate η, a scalar variable; assign a number to change it."""
        source = learning_rate_source(self)
        return source(self.iterations) if callable(source) else source

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        keras.optimizers.Optimizer.learning_rate.fset(self, check(value, *_RATE, self))

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

    @property
    def param_groups(self) -> tuple[Any, ...]:
        """The groups that the optimizer was given."""
        return self._fixed.param_groups

    def set_group(self, index: int, **numbers: float) -> None:
        """Sets numbers of the group `param_groups[index]`; acts on the running `fit`."""
        groups, declared = list(self.param_groups), _declared(type(self))
        for name, number in numbers.items():
            groups[index] = set_group_number(self, groups, index, name, number, declared)
            self._fixed.param_groups = tuple(groups)

    def set_rate_factors(self, factors: dict[int, float]) -> None:
        """Multiplies the learning rate of single variables, by id; for steps traced from now."""
        self._fixed.rate_factors = dict(factors)

    def build(self, variables: list[Any]) -> None:
        """Creates the slots of `variables`."""
        if self.built:
            return
        groups = assign_groups(self, self.param_groups, variables, _declared(type(self)))
        super().build(variables)
        self._dtype = keras.backend.result_type(*map(wide, variables), "float32")
        for name in self.scalar_slots:
            setattr(self, f"{name}_slots", self._add_vector(name, len(variables)))
        for name in self.slots:
            setattr(self, f"{name}_slots", [self._add_slot(name, v) for v in variables])
        if any(map(is_half, variables)):
            self.master_slots = [self._add_master(v) for v in variables]
        if groups is not None:
            self.group_slots = self._add_vector("group", len(variables), "int32")
            with before_training():
                self.group_slots.assign(groups)

    def begin_update(self, variables: list[Any], learning_rate: Any) -> None:
        """Works out the numbers of this update, for all variables at once."""
        fuses = self.fuses and self.has_kernel() and self._now.finite is None
        self._now.fuses = fuses and _kernels.available()
        h = self.hyperparameters(learning_rate)
        old = [getattr(self, f"{name}_slots") for name in self.scalar_slots]
        new = self.advance(h, *map(ops.convert_to_tensor, old))
        for slot, value in zip(old, new, strict=True):
            slot.assign(self._where_moved(variables, value, slot))
        known = len(known_variables(self))
        names = {name: rows(value, known) for name, value in vars(h).items()}
        self._now.numbers = [
            SimpleNamespace(**{name: values[i] for name, values in names.items()})
            for i in range(known)
        ]
        self._now.ones = {}

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
        h = SimpleNamespace(
            **{name: cast_number(v, dtype) for name, v in vars(self._now.numbers[index]).items()}
        )
        g = ops.cast(gradient, dtype)
        if h.adaptive_clipnorm is not None:
            g = clip_units(g, ops.cast(variable, dtype), h.adaptive_clipnorm)
        decays = h.weight_decay is not None and self.decays(variable)
        if self._now.fuses and not is_half(variable):
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

    def slots_of(self, index: int) -> list[Any]:
        """Returns the slots of one variable, in the order in which the rule takes them."""
        return [getattr(self, f"{name}_slots")[index] for name in self.slots]

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

    def live_numbers(self) -> list[str]:
        """Returns the names of the numbers that may be set while training."""
        sources = {name: getattr(self, d.attribute) for name, d in _declared(type(self)).items()}
        sources["learning_rate"] = learning_rate_source(self)
        return [name for name, source in sources.items() if isinstance(source, keras.Variable)]

    def hyperparameters(self, learning_rate: Any) -> SimpleNamespace:
        """Returns the numbers of this update by name: scalars, or vectors over the variables."""
        overrides = group_numbers(self, self.param_groups, self._dtype)
        h = SimpleNamespace()
        for name, declared in _declared(type(self)).items():
            value = declared.in_update(self, self._dtype, overrides.get(name))
            rounds = self._now.fuses and isinstance(value, Average)
            setattr(h, name, value.rounded() if rounds else value)
        if h.weight_decay is None and "weight_decay" in overrides:
            h.weight_decay = overridden(0.0, overrides["weight_decay"])
        h.learning_rate = ops.cast(learning_rate, self._dtype)
        h.zero = ops.zeros((), self._dtype)
        if "lr_multiplier" in overrides:
            h.learning_rate = h.learning_rate * overrides["lr_multiplier"]
        factors = self._fixed.rate_factors
        if factors:
            column = [factors.get(id(v), 1.0) for v in known_variables(self)]
            h.learning_rate = h.learning_rate * ops.convert_to_tensor(column, self._dtype)
        if h.weight_decay is not None:
            h.kept = 1 - h.learning_rate * h.weight_decay
        return h

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
        config = super().get_config()
        del config["ema_overwrite_frequency"]
        if isinstance(config["learning_rate"], float):
            config["learning_rate"] = float(shortest(self.learning_rate))
        numbers = {name: d.config(self) for name, d in _declared(type(self)).items()}
        groups = [keras.saving.serialize_keras_object(group) for group in self.param_groups]
        return config | numbers | {"skip_nonfinite": self.skip_nonfinite, "param_groups": groups}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Returns the optimizer that `get_config` described."""
        functions = {
            name: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            for name, value in config.items()
            if isinstance(value, dict) or name == "param_groups"
        }
        return cls(**config | functions)

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

    def _add_reading(self, name: str, dtype: str) -> Any:
        return self.add_variable(shape=(), dtype=dtype, aggregation="only_first_replica", name=name)

    def _add_vector(self, name: str, length: int, dtype: str | None = None) -> Any:
        return self.add_variable(
            shape=(length,),
            dtype=dtype or self._dtype,
            aggregation="only_first_replica",
            name=name,
        )

    def _add_slot(self, name: str, variable: Any) -> Any:
        if getattr(variable, "overwrite_with_gradient", False):
            return None  # Keras assigns these the gradient itself (float8 scales).
        if keras.backend.standardize_dtype(variable.dtype) == wide(variable):
            return self.add_variable_from_reference(variable, name=name)
        return self.add_variable(shape=variable.shape, dtype=wide(variable), name=name)

    def _add_master(self, variable: Any) -> Any:
        slot = self._add_slot("master", variable) if is_half(variable) else None
        if slot is not None:
            with before_training():
                slot.assign(ops.cast(variable, slot.dtype))
        return slot


def _declared(cls: type) -> dict[str, Hyperparameter]:
    return {
        name: attribute
        for parent in reversed(cls.__mro__)
        for name, attribute in vars(parent).items()
        if isinstance(attribute, Hyperparameter)
    }
