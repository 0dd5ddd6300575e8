"""What every optimizer here has in common: live numbers, one rule, clipping, decay."""

from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from kerastools._core._clipping import clip_by_value, clip_to_norm, clip_units, norm
from kerastools._core._hyperparameter import Hyperparameter, check, shortest
from kerastools._core._optimizer_hooks import OptimizerHooks
from kerastools._core._slots import learning_rate_source

_OTHER_KERAS_ARGUMENTS = (
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "name",
)


_RATE = ("[0, inf)", "learning_rate")


class LiveOptimizer(OptimizerHooks):
    """Base of the optimizers of this package: a subclass is its slots and its rule.

    `rule(g, h, *slots)` is given the gradient, the hyperparameters and what the optimizer keeps for
    this variable, and returns the step Δ and the slots anew. Then θ ← θ − Δ − ηλθ with decoupled
    weight decay λ. All of it is computed in float32 at least, whatever the variable's type.

    Every slot is one variable per trainable variable, in the list `<name>_slots` in the order in
    which the optimizer was built; step counts are such slots, so that a variable which joins late
    has its own.
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
        **kwargs: Any,
    ) -> None:
        unknown = set(kwargs) - set(_OTHER_KERAS_ARGUMENTS)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no argument {sorted(unknown)}.")
        super().__init__(learning_rate=check(learning_rate, *_RATE, self), **kwargs)
        self._read = SimpleNamespace(numbers={})
        self.weight_decay = weight_decay
        self.clipvalue = clipvalue
        self.clipnorm = clipnorm
        self.global_clipnorm = global_clipnorm
        self.adaptive_clipnorm = adaptive_clipnorm
        self.skip_nonfinite = skip_nonfinite
        if skip_nonfinite or global_clipnorm is not None:
            self._gradient_norm = self._add_reading("gradient_norm", "float32")
            self._clipped_steps = self._add_reading("clipped_steps", "int32")
            self._skipped_steps = self._add_reading("skipped_steps", "int32")

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

    def build(self, variables: list[Any]) -> None:
        """Creates the slots of `variables`."""
        if self.built:
            return
        super().build(variables)
        for name in self._slot_names():
            slots = [self._add_slot(name, variable) for variable in variables]
            setattr(self, f"{name}_slots", slots)

    def begin_update(self) -> None:
        """Forgets the numbers of the last step, and asks whether this one is to be skipped."""
        self._read.numbers = {}
        if self.skip_nonfinite:
            self._read.finite = ops.isfinite(ops.convert_to_tensor(self._gradient_norm))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Moves `variable` by the rule."""
        slots = self.slots_of(self.index_of(variable))
        dtype = _wide(variable)
        h = self.hyperparameters(dtype)
        h.learning_rate = ops.cast(learning_rate, dtype)

        theta = ops.cast(variable, dtype)
        g = ops.cast(gradient, dtype)
        if h.adaptive_clipnorm is not None:
            g = clip_units(g, theta, h.adaptive_clipnorm)
        decays = h.weight_decay is not None and self.decays(variable)
        h.decay = h.weight_decay * theta if decays else None
        delta, *new_slots = self.rule(g, h, *(ops.cast(slot, dtype) for slot in slots))
        if decays and not self.decays_in_rule:
            delta = delta + h.learning_rate * h.decay

        for old, new in zip([variable, *slots], [theta - delta, *new_slots], strict=True):
            if self.skip_nonfinite:
                new = ops.where(self._read.finite, new, ops.cast(old, dtype))
            self.assign(old, new)

    def slots_of(self, index: int) -> list[Any]:
        """Returns the slots of one variable, in the order in which the rule takes them."""
        return [getattr(self, f"{name}_slots")[index] for name in self._slot_names()]

    def live_numbers(self) -> list[str]:
        """Returns the names of the numbers that may be set while training."""
        sources = {name: getattr(self, d.attribute) for name, d in _declared(type(self)).items()}
        sources["learning_rate"] = learning_rate_source(self)
        return [name for name, source in sources.items() if isinstance(source, keras.Variable)]

    def hyperparameters(self, dtype: str) -> SimpleNamespace:
        """Returns the hyperparameters as the rule reads them, by name; read once per update."""
        if dtype not in self._read.numbers:
            declared = _declared(type(self)).items()
            self._read.numbers[dtype] = {name: d.in_update(self, dtype) for name, d in declared}
        return SimpleNamespace(**self._read.numbers[dtype])

    def clip_gradients(self, gradients: list[Any]) -> list[Any]:
        """Clips by value, then each gradient's norm, then the norm of all; those that are set."""
        gradients = [ops.convert_to_tensor(g, sparse=False) for g in gradients]
        length = None
        if self.gradient_norm is not None:
            length = norm(gradients)
            self._gradient_norm.assign(ops.cast(length, "float32"))
            skipped = ops.logical_not(ops.isfinite(length)) if self.skip_nonfinite else False
            self._skipped_steps.assign_add(ops.cast(skipped, "int32"))
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
        if isinstance(config["learning_rate"], float):
            config["learning_rate"] = float(shortest(self.learning_rate))
        numbers = {name: d.config(self) for name, d in _declared(type(self)).items()}
        return config | numbers | {"skip_nonfinite": self.skip_nonfinite}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """Returns the optimizer that `get_config` described."""
        functions = {
            name: keras.saving.deserialize_keras_object(value, custom_objects=custom_objects)
            for name, value in config.items()
            if isinstance(value, dict)
        }
        return cls(**config | functions)

    def _slot_names(self) -> tuple[str, ...]:
        return (*self.scalar_slots, *self.slots)

    def _add_reading(self, name: str, dtype: str) -> Any:
        return self.add_variable(shape=(), dtype=dtype, aggregation="only_first_replica", name=name)

    def _add_slot(self, name: str, variable: Any) -> Any:
        if getattr(variable, "overwrite_with_gradient", False):
            return None  # Keras assigns these the gradient itself (float8 scales).
        if name in self.scalar_slots:
            return self.add_variable(shape=(), dtype=_wide(variable), name=name)
        if keras.backend.standardize_dtype(variable.dtype) == _wide(variable):
            return self.add_variable_from_reference(variable, name=name)
        return self.add_variable(shape=variable.shape, dtype=_wide(variable), name=name)


def _declared(cls: type) -> dict[str, Hyperparameter]:
    return {
        name: attribute
        for parent in reversed(cls.__mro__)
        for name, attribute in vars(parent).items()
        if isinstance(attribute, Hyperparameter)
    }


def _wide(variable: Any) -> str:
    """Returns the type in which `variable` is updated: its own, but float32 at least."""
    return keras.backend.result_type(variable.dtype, "float32")
