"""The base of the optimizers here: mutable hyperparameters, one rule, clipping, decay, slots."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from keras import ops

from kerastools._core.keras_private.optimizer_hooks import (
    OptimizerHooks,
    Row,
    dense,
    is_distributed,
    is_sparse,
    known_variables,
    layout_of,
    learning_rate_source,
    num_replicas,
)
from kerastools.optimizers._base import tf_kernels
from kerastools.optimizers._base.arguments import Number, show_common_arguments
from kerastools.optimizers._base.clipping import clip_by_value, clip_to_norm, clip_units, norm
from kerastools.optimizers._base.evaluation_point import EvaluationPoint
from kerastools.optimizers._base.hyperparameter import (
    Average,
    Hyperparameter,
    StepNumbers,
    UnstackCache,
    check,
    current,
    overridden,
    shortest,
)
from kerastools.optimizers._base.param_groups import (
    assign_groups,
    group_numbers,
    set_group_number,
)
from kerastools.optimizers._base.slots import Stack, filled_with, holding, is_half, stacks_of, wide

_RATE = ("[0, inf)", "learning_rate")


@dataclasses.dataclass
class _Update:
    """What an update keeps for its variables, which are moved one after the other."""

    numbers: Any = None
    unstacked: Any = None
    finite: Any = None  # Whether all gradients are, if `skip_nonfinite`.
    fuses: bool = False


class MutableOptimizer(EvaluationPoint, OptimizerHooks):
    """Base of the optimizers of this package: a subclass is its slots and its rule.

    Once per update `_advance(n, *scalar_slots)` works out what is one number per variable (step
    counts, corrections of the bias) for all variables together; n are the `StepNumbers`, of the
    class `_numbers`. Then `_rule(g, n, *slots)` is given each variable's gradient, its numbers and
    its slots, and returns the step Δ and the new slots: θ ← θ − Δ − ηλθ with decoupled weight decay
    λ. All of it is computed in float32 at least, whatever the variable's type; variables of lower
    precision have a float32 twin, the slot `master`. Where TensorFlow has a kernel for the rule,
    `_has_kernel` says so and `_kernel` calls it.

    Every slot is one variable per trainable variable, in the list `_<name>_slots` in the order in
    which the optimizer was built. Small variables of one shape share a stack, of which each has a
    row; to all others a row is a variable like any other. Every scalar slot is one vector with a
    number per variable; step counts are such slots, so that a variable which joins late has its
    own.
    """

    weight_decay = Hyperparameter("[0, inf)")
    clipnorm = Hyperparameter("(0, inf]")
    clipvalue = Hyperparameter("(0, inf]")
    global_clipnorm = Hyperparameter("(0, inf]")
    adaptive_clipnorm = Hyperparameter("(0, inf]")

    _numbers: type[StepNumbers] = StepNumbers
    # Names of the slots, first those of one number per variable.
    _scalar_slots: tuple[str, ...] = ()
    _slots: tuple[str, ...] = ()
    # Whether the rule itself makes use of n.decay, which is λθ or None.
    _decays_in_rule = False
    # Whether TensorFlow's own kernels may be used.
    _fuses = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_common_arguments(cls, MutableOptimizer)

    def __init__(
        self,
        learning_rate: Number,
        weight_decay: Number | None = None,
        clipnorm: Number | None = None,
        clipvalue: Number | None = None,
        global_clipnorm: Number | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        *,
        adaptive_clipnorm: Number | None = None,
        skip_nonfinite: bool = False,
        param_groups: Sequence[Any] = (),
    ) -> None:
        super().__init__(
            learning_rate=check(learning_rate, *_RATE, self),
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        # Not attributes of their own: Keras would track the variables in them.
        self._fixed = SimpleNamespace(groups=tuple(param_groups), rate_factors={})
        self._layout = SimpleNamespace(stacks=[], dtype="float32")
        self._now = _Update()
        self.weight_decay = weight_decay
        # To Keras, 0 is no limit.
        self.clipnorm = clipnorm or None
        self.clipvalue = clipvalue or None
        self.global_clipnorm = global_clipnorm or None
        self.adaptive_clipnorm = adaptive_clipnorm or None
        self.skip_nonfinite = skip_nonfinite
        if skip_nonfinite or self.global_clipnorm is not None:
            self._gradient_norm = self._add_scalar("gradient_norm", "float32")
            self._clipped_steps = self._add_scalar("clipped_steps", "int32")
            self._skipped_steps = self._add_scalar("skipped_steps", "int32")
        if self.use_ema:
            self._add_evaluation_point()

    # What a subclass is made of.

    def _advance(self, n: Any, *scalar_slots: Any) -> tuple[Any, ...]:
        """Adds to n what the rule needs of one number per variable; returns the new slots."""
        return ()

    def _rule(self, g: Any, n: Any, *slots: Any) -> tuple[Any, ...]:
        """Returns the step Δ that is subtracted from the weights, and the new slots."""
        raise NotImplementedError

    def _has_kernel(self) -> bool:
        """Returns whether `_kernel` can do what the rule says."""
        return False

    def _kernel(self, theta: Any, g: Any, n: Any, *slots: Any) -> None:
        """Does what the rule says with one of TensorFlow's kernels, after the weight decay.

        `theta` and `slots` are variables of one type, that of `g`.
        """
        raise NotImplementedError

    def _leaves_zero_rows(self, n: Any) -> Any:
        """Returns whether a row whose gradient is 0 stays where it is, slots too: a bool or tensor.

        Then a sparse gradient, that of an embedding, costs what it touches.
        """
        return False

    def _rule_of_rows(self, g: Any, n: Any, *slots: Any) -> tuple[Any, ...]:
        """Is `_rule` for the rows of a sparse gradient."""
        return self._rule(g, n, *slots)

    def _slot_start(self, name: str) -> float:
        """Returns the number that a slot starts at."""
        return 0.0

    # What users see.

    @property
    def learning_rate(self) -> Any:
        """The learning rate η, a scalar variable; assign a number to change it."""
        return current(learning_rate_source(self), self)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        keras.optimizers.Optimizer.learning_rate.fset(self, check(value, *_RATE, self))

    @property
    def param_groups(self) -> tuple[Any, ...]:
        """The groups that the optimizer was given."""
        return self._fixed.groups

    def set_group(self, index: int, **numbers: float) -> None:
        """Sets hyperparameters of the group `param_groups[index]`; acts on the running `fit`."""
        groups, declared = list(self.param_groups), self._declared()
        for name, number in numbers.items():
            groups[index] = set_group_number(self, groups, index, name, number, declared)
            self._fixed.groups = tuple(groups)

    @property
    def mutable_hyperparameters(self) -> list[str]:
        """The names of the hyperparameters that may be set while training."""
        sources = {name: getattr(self, d.attribute) for name, d in self._declared().items()}
        sources["learning_rate"] = learning_rate_source(self)
        return [name for name, source in sources.items() if isinstance(source, keras.Variable)]

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

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor; the hyperparameters as they are now."""
        config = super().get_config()
        if isinstance(config["learning_rate"], float):
            config["learning_rate"] = float(shortest(self.learning_rate))
        config |= {name: d.config(self) for name, d in self._declared().items()}
        config["param_groups"] = list(map(keras.saving.serialize_keras_object, self.param_groups))
        options = type(self).__signature__.parameters
        return {name: getattr(self, name) for name in options if name not in config} | config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Returns the optimizer that `get_config` described."""
        functions = {
            name: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            for name, value in config.items()
            if isinstance(value, dict) or name == "param_groups"
        }
        return cls(**config | functions)

    # Slots.

    def build(self, variables: list[Any]) -> None:
        """Creates the slots of `variables`."""
        if self.built:
            return
        if self.gradient_accumulation_steps and num_replicas() > 1:
            raise ValueError(
                f"{type(self).__name__} cannot accumulate gradients under a tf.distribute strategy "
                "with several replicas: TensorFlow cannot sum over replicas inside the condition "
                "in which Keras applies what was accumulated. Received "
                f"gradient_accumulation_steps={self.gradient_accumulation_steps}. Leave it out "
                "and use a larger batch_size."
            )
        groups = assign_groups(self, self.param_groups, variables, self._declared())
        super().build(variables)
        stacks = self._fuses and keras.backend.backend() == "tensorflow" and not is_distributed()
        self._layout = SimpleNamespace(
            stacks=stacks_of(variables) if stacks else [],
            dtype=keras.backend.result_type(*map(wide, variables), "float32"),
        )
        for name in self._scalar_slots:
            slot = self._add_scalar(name, self._layout.dtype, (len(variables),))
            setattr(self, f"_{name}_slots", slot)
        for name in self._slots:
            start, rows = filled_with(self._slot_start(name)), dict[int, Any]()
            for stack in self._stacks:
                rows |= stack.add_slot(name, start)
            # In their order, in which files have them.
            slots = [self._add_slot(name, v, start, rows.get(i)) for i, v in enumerate(variables)]
            setattr(self, f"_{name}_slots", slots)
        if any(map(is_half, variables)):
            self._master_slots = [self._add_master(v) for v in variables]
        if groups is not None:
            self._group_slots = self._add_scalar("group", "int32", groups.shape, holding(groups))

    @property
    def _stacks(self) -> list[Stack]:
        return self._layout.stacks

    def _slots_of(self, index: int) -> list[Any]:
        """Returns the slots of one variable, in the order in which the rule takes them."""
        return [getattr(self, f"_{name}_slots")[index] for name in self._slots]

    def _moving(self) -> Iterator[tuple[list[Any], list[Any]]]:
        known, stacked = known_variables(self), set()
        for stack in self._stacks:
            stacked |= set(stack.indices)
            yield [known[i] for i in stack.indices], stack.slots
        for i in set(range(len(known))) - stacked:
            if self._slots_of(i)[0] is not None:
                yield [known[i]], self._slots_of(i)

    def _add_scalar(
        self, name: str, dtype: str, shape: tuple[int, ...] = (), initializer: Any = "zeros"
    ) -> Any:
        """Creates a variable of one number, or of one per variable, the same on all replicas."""
        return self.add_variable(shape, initializer, dtype, "only_first_replica", name=name)

    def _add_slot(self, name: str, variable: Any, start: Any, make_row: Any = None) -> Any:
        if getattr(variable, "overwrite_with_gradient", False):
            return None  # Keras assigns these the gradient itself (float8 scales).
        if make_row is not None:
            with keras.name_scope(self.name):
                row = make_row(name=f"{variable.path.replace('/', '_')}_{name}")
            self._track(row)
            return row
        if keras.backend.standardize_dtype(variable.dtype) == wide(variable):
            return self.add_variable_from_reference(variable, name=name, initializer=start)
        return self.add_variable(
            variable.shape,
            start,
            wide(variable),
            layout=layout_of(variable),
            name=f"{variable.path.replace('/', '_')}_{name}",
        )

    def _add_master(self, variable: Any) -> Any:
        """Creates the float32 twin of a variable of half precision; `None` for others."""
        return self._add_slot("master", variable, holding(variable)) if is_half(variable) else None

    def assign(self, variable: Any, value: Any) -> None:
        """Assigns a value of any float type to a variable of the model or to a slot."""
        if isinstance(variable, Row):
            variable.assign(value)
        else:
            super().assign(variable, value)

    # One update: the gradients are clipped, the numbers worked out, the variables moved.

    def _clip_all(self, gradients: list[Any]) -> list[Any]:
        """Clips by value, then each gradient's norm, then the norm of all; those that are set."""
        limits = self.clipvalue, self.clipnorm, self.adaptive_clipnorm, self.gradient_norm
        if any(limit is not None for limit in limits) or not tf_kernels.available():
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

    def _update_allowed(self) -> Any:
        """Returns whether all gradients are finite, if `skip_nonfinite`."""
        # The whole update is left out; the rule need not look.
        finite, self._now.finite = self._now.finite, None
        return finite

    def _begin_update(self, variables: list[Any], learning_rate: Any) -> None:
        """Works out the numbers of this update, for all variables at once."""
        fuses = self._fuses and self._has_kernel() and self._now.finite is None
        self._now.fuses = fuses and tf_kernels.available()
        held = {name: d.held(self) for name, d in self._declared().items()}
        n = self._step_numbers(learning_rate, held, self._layout.dtype, self._now.fuses)
        old = [getattr(self, f"_{name}_slots") for name in self._scalar_slots]
        new = self._advance(n, *map(ops.convert_to_tensor, old))
        for slot, value in zip(old, new, strict=True):
            slot.assign(self._where_moved(variables, value, slot))
        self._now.numbers = n
        self._now.unstacked = UnstackCache(len(known_variables(self)))

    def _step_numbers(
        self, learning_rate: Any, held: dict[str, Any], dtype: str, rounds: bool
    ) -> Any:
        """Returns the numbers of an update, given the hyperparameters as they are held.

        With `rounds`, decay rates are rounded to `dtype`, as the kernels take them.
        """
        overrides = group_numbers(self, self.param_groups, dtype)
        numbers = {
            name: d.in_update(held[name], dtype, overrides.get(name))
            for name, d in self._declared().items()
        }
        for name, value in numbers.items():
            if rounds and isinstance(value, Average):
                numbers[name] = value.rounded()
        eta, decay = ops.cast(learning_rate, dtype), numbers["weight_decay"]
        if decay is None and "weight_decay" in overrides:
            numbers["weight_decay"] = decay = overridden(0.0, overrides["weight_decay"])
        if "lr_multiplier" in overrides:
            eta = eta * overrides["lr_multiplier"]
        if factors := self._fixed.rate_factors:
            column = [factors.get(id(v), 1.0) for v in known_variables(self)]
            eta = eta * ops.convert_to_tensor(column, dtype)
        factor = None if decay is None else 1 - eta * decay
        zero = ops.zeros((), dtype)
        return self._numbers(learning_rate=eta, decay_factor=factor, zero=zero, **numbers)

    def _update_all(self, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
        """Moves the variables: stacks of which every variable has a gradient, then the others."""
        left = {self._index_of(v): (g, v) for g, v in zip(gradients, variables, strict=True)}
        for stack in self._stacks:
            if left.keys() >= set(stack.indices):
                self._update_stack(stack, *zip(*map(left.pop, stack.indices), strict=True))
        for gradient, variable in left.values():
            self.update_step(gradient, variable, learning_rate)

    def _update_stack(
        self, stack: Stack, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> None:
        """Moves the variables of a stack by the rule, which is the same for each element."""
        n = self._now.numbers.picked(stack.number, stack.dtype)
        gs = [ops.cast(dense(g), stack.dtype) for g in gradients]
        if n.adaptive_clipnorm is not None:
            gs = [clip_units(g, v, n.adaptive_clipnorm) for g, v in zip(gs, variables, strict=True)]
        if n.weight_decay is not None and any(map(self._decays, variables)):
            n.decay = n.weight_decay * ops.stack(variables)
            if not all(map(self._decays, variables)):
                kept = ops.convert_to_tensor([float(self._decays(v)) for v in variables])
                n.decay = n.decay * stack.column(ops.cast(kept, stack.dtype))
        delta, *new_slots = self._rule(ops.stack(gs), n, *map(ops.convert_to_tensor, stack.slots))
        if n.decay is not None and not self._decays_in_rule:
            delta = delta + n.learning_rate * n.decay
        for variable, step in zip(variables, ops.unstack(delta, len(gs)), strict=True):
            variable.assign_sub(step, read_value=False)
        for old, new in zip(stack.slots, new_slots, strict=True):
            old.assign(new)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves `variable` by the rule; its learning rate is already among its numbers."""
        index = self._index_of(variable)
        n = self._now.numbers.picked(partial(self._now.unstacked.at, index), wide(variable))
        alone = is_sparse(gradient) and self._moves_rows_alone(variable, index, n)
        if alone is True:
            self._move_rows(gradient, variable, index, n)
        elif alone is False:
            self._move(dense(gradient), variable, index, n)
        else:
            ops.cond(
                alone,
                lambda: self._move_rows(gradient, variable, index, n),
                lambda: self._move(dense(gradient), variable, index, n),
            )

    def _moves_rows_alone(self, variable: Any, index: int, n: Any) -> Any:
        """Returns whether a sparse gradient moves its own rows and nothing else."""
        row = isinstance(self._slots_of(index)[0], Row)
        if row or is_half(variable) or (n.weight_decay is not None and self._decays(variable)):
            return False
        return self._leaves_zero_rows(n)

    def _move_rows(self, gradient: Any, variable: Any, index: int, n: Any) -> None:
        """Moves the rows of a sparse gradient by the rule."""
        rows, g = tf_kernels.summed_rows(gradient)
        slots = self._slots_of(index)
        held = [tf_kernels.take_rows(slot, rows) for slot in slots]
        delta, *new_slots = self._rule_of_rows(ops.cast(g, wide(variable)), n, *held)
        tf_kernels.subtract_rows(variable, rows, delta)
        for slot, new in zip(slots, new_slots, strict=True):
            tf_kernels.put_rows(slot, rows, new)

    def _move(self, gradient: Any, variable: Any, index: int, n: Any) -> None:
        """Moves all of a variable by the rule, or by its kernel."""
        slots = self._slots_of(index)
        dtype = wide(variable)
        g = ops.cast(gradient, dtype)
        if n.adaptive_clipnorm is not None:
            g = clip_units(g, ops.cast(variable, dtype), n.adaptive_clipnorm)
        decays = n.weight_decay is not None and self._decays(variable)
        if self._now.fuses and not is_half(variable) and not isinstance(slots[0], Row):
            if decays:
                variable.assign(variable * n.decay_factor)
            self._kernel(variable, g, n, *slots)
            return

        master = self._master_slots[index] if is_half(variable) else None
        theta = ops.cast(variable, dtype)
        if master is not None:
            # Where the variable is no longer its twin's rounding, somebody else has set it.
            rounded = ops.cast(master, variable.dtype)
            theta = ops.where(ops.equal(rounded, variable), ops.cast(master, dtype), theta)
        n.decay = n.weight_decay * theta if decays else None
        delta, *new_slots = self._rule(g, n, *(ops.cast(slot, dtype) for slot in slots))
        if decays and not self._decays_in_rule:
            delta = delta + n.learning_rate * n.decay
        theta = theta - delta
        olds, news = [variable, *slots], [theta, *new_slots]
        if master is not None:
            olds, news = [*olds, master], [*news, theta]
        for old, new in zip(olds, news, strict=True):
            if self._now.finite is not None:
                new = ops.where(self._now.finite, new, ops.cast(old, dtype))
            self.assign(old, new)

    def _move_averages(self, moved: Any) -> None:
        """Moves the averages of the constrained weights where the weights moved."""
        if self.skip_nonfinite:
            moved = ops.logical_and(moved, ops.isfinite(self._gradient_norm.value))
        first = ops.equal(self.iterations, 1)
        if self.ema_overwrite_frequency:
            overwrites = ops.equal(ops.mod(self.iterations, self.ema_overwrite_frequency), 0)
            overwrites = ops.logical_and(moved, overwrites)
        for variable, average in self._averages():
            old = ops.convert_to_tensor(average)
            momentum = ops.where(first, 0.0, ops.cast(self.ema_momentum, old.dtype))
            new = old + (1 - momentum) * (ops.cast(variable, old.dtype) - old)
            if variable.constraint is not None:
                new = variable.constraint(new)
            average.assign(ops.where(moved, new, old))
            if self.ema_overwrite_frequency:
                variable.assign(ops.where(overwrites, new, ops.convert_to_tensor(variable)))

    def _evaluation_pairs(self) -> list[tuple[Any, Any]]:
        """Returns each variable with what stands in for it in evaluation: its average."""
        return self._averages() if self.use_ema else []

    @classmethod
    def _declared(cls) -> dict[str, Hyperparameter]:
        """Returns the hyperparameters by name, but for the learning rate."""
        return {
            name: attribute
            for parent in reversed(cls.__mro__)
            for name, attribute in vars(parent).items()
            if isinstance(attribute, Hyperparameter)
        }

    def _take_groups(self, other: Any) -> None:
        """Takes the very groups of another optimizer; in configurations layers are names."""
        self._fixed.groups = other.param_groups

    def _set_rate_factors(self, factors: dict[int, float]) -> None:
        """Multiplies the learning rate of single variables, by id; for steps traced from now."""
        self._fixed.rate_factors = dict(factors)

    def _where_moved(self, variables: list[Any], new: Any, slot: Any) -> Any:
        """Returns `new` for the variables that are updated now, else what `slot` holds."""
        old = ops.convert_to_tensor(slot)
        moved = {int(self._index_of(v)) for v in variables}
        if len(moved) < len(known_variables(self)):
            mask = np.isin(np.arange(len(known_variables(self))), list(moved))
            new = ops.where(ops.convert_to_tensor(mask), new, old)
        if self._now.finite is not None:
            new = ops.where(self._now.finite, new, old)
        return new
