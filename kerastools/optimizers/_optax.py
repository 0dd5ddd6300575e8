"""The state of an optimizer, exchanged with optax."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerastools._core.keras_private.optimizer_hooks import known_variables, learning_rate_source
from kerastools.optimizers._adagrad import Adagrad
from kerastools.optimizers._adam import Adam
from kerastools.optimizers._adamax import Adamax
from kerastools.optimizers._rmsprop import RMSprop
from kerastools.optimizers._sgd import SGD

# Our slot for each field of a state in optax.
_FIELDS: dict[type, dict[str, str]] = {
    SGD: {"trace": "displacement"},
    Adagrad: {"sum_of_squares": "accumulator"},
    RMSprop: {"nu": "mean_square", "mu": "mean", "trace": "velocity"},
    Adam: {"mu": "momentum", "nu": "velocity", "nu_max": "largest"},
    Adamax: {"mu": "momentum", "nu": "norm"},
}


def to_optax(optimizer: Any, state: Any) -> Any:
    """Returns `state` of an optax optimizer with the slots and step count of `optimizer`.

    optax then goes on where `optimizer` stopped, if it is the same rule with the same
    hyperparameters.

    Args:
        optimizer: A built `SGD`, `Adagrad`, `RMSprop`, `Adam`, `AdamW` or `Adamax` of this package;
            for one of Keras's see `kerastools.from_keras`.
        state: What `init(params)` of the optax optimizer returned, where the leaves of `params` are
            the optimizer's variables in its order, a list of them for instance.

    Returns:
        The state; optax's are never changed.

    Raises:
        TypeError: If `optimizer` is none of these.
        ValueError: If the state has other slots than the optimizer, or variables that joined late
            count steps of their own.

    Example:

    >>> import optax
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> optimizer = Adam(0.1)
    >>> optimizer.apply([2 * theta], [theta])
    >>> params = [keras.ops.convert_to_numpy(theta)]
    >>> state = to_optax(optimizer, optax.adam(0.1).init(params))
    >>> int(state[0].count), state[0].mu[0].shape
    (1, (2,))
    """
    slots = _slots(optimizer)
    count = _count(optimizer)
    taken: list[str] = []

    def fill(part: Any) -> Any:
        found = {name: slots[name] for name in _names(part) if name in slots}
        taken.extend(found)
        values = {
            name: _packed(getattr(part, name), [_numpy(v) / scale for v in variables])
            for name, (variables, scale) in found.items()
        }
        if "count" in _names(part):
            values["count"] = np.asarray(count, np.asarray(part.count).dtype)
        return type(part)(**{n: getattr(part, n) for n in _names(part)} | values)

    filled = _mapped(state, fill)
    _check_taken(optimizer, slots, taken)
    return filled


def from_optax(optimizer: Any, state: Any) -> Any:
    """Gives `optimizer` the slots and step count of an optax optimizer's state; returns it.

    The other way round than `to_optax`, which says what fits. The weights are not in the state;
    assign them to the variables.

    Args:
        optimizer: Of this package, and built.
        state: The optax optimizer's state.

    Returns:
        `optimizer`.

    Raises:
        TypeError: As `to_optax`.
        ValueError: As `to_optax`.

    Example:

    >>> import optax
    >>> theta = keras.Variable(np.array([1.0, -2.0], "float32"))
    >>> rule = optax.adam(0.1)
    >>> params = [keras.ops.convert_to_numpy(theta)]
    >>> _, state = rule.update([2 * params[0]], rule.init(params))
    >>> optimizer = Adam(0.1)
    >>> optimizer.build([theta])
    >>> int(from_optax(optimizer, state).iterations)
    1
    """
    slots = _slots(optimizer)
    taken: list[str] = []
    counts: list[int] = []
    for part in _parts(state):
        counts += [int(part.count)] if "count" in _names(part) else []
        for name in slots.keys() & set(_names(part)):
            taken.append(name)
            variables, scale = slots[name]
            leaves = _leaves(getattr(part, name))
            if [np.shape(a) for a in leaves] != [tuple(v.shape) for v in variables]:
                raise ValueError(
                    f"from_optax needs the {name} of the optimizer's variables, in their order. "
                    f"Received shapes {[np.shape(a) for a in leaves]}, expected "
                    f"{[tuple(v.shape) for v in variables]}."
                )
            for variable, leaf in zip(variables, leaves, strict=True):
                variable.assign(scale * np.asarray(leaf))
    _check_taken(optimizer, slots, taken)
    if counts:
        optimizer.iterations.assign(counts[0])
        if "step" in optimizer._scalar_slots:
            steps = _steps(optimizer)
            steps.assign(np.full(steps.shape, counts[0]))
    return optimizer


def _slots(optimizer: Any) -> dict[str, tuple[list[Any], float]]:
    """Returns, by the field in optax, the slots of an optimizer and what optax's are times."""
    fields = next((f for cls, f in _FIELDS.items() if isinstance(optimizer, cls)), None)
    if fields is None:
        names = ", ".join(cls.__name__ for cls in _FIELDS)
        raise TypeError(
            f"State is exchanged with optax for {names} of kerastools.optimizers. Received "
            f"{optimizer!r} of type {type(optimizer).__name__}."
        )
    if not optimizer.built:
        raise ValueError(
            "State is exchanged with optax for an optimizer that is built. Call "
            "optimizer.build(model.trainable_variables) first."
        )
    if optimizer.gradient_accumulation_steps:
        raise ValueError("optax accumulates gradients outside the rule, in MultiSteps.")
    # SGD's displacement is −η times the trace; RMSprop's velocity is subtracted, optax's added.
    scale = -1.0
    if isinstance(optimizer, SGD):
        if not isinstance(learning_rate_source(optimizer), keras.Variable):
            raise ValueError("SGD's momentum is exchanged where the learning rate is a number.")
        scale = -float(_numpy(optimizer.learning_rate))
    moves = bool(optimizer.get_config().get("momentum"))
    return {
        field: (getattr(optimizer, f"_{slot}_slots"), scale if field == "trace" else 1.0)
        for field, slot in fields.items()
        if slot in optimizer._slots and (field != "trace" or moves)
    }


def _steps(optimizer: Any) -> Any:
    (name,) = optimizer._scalar_slots
    return getattr(optimizer, f"_{name}_slots")


def _count(optimizer: Any) -> int:
    now = int(_numpy(optimizer.iterations))
    if "step" in optimizer._scalar_slots and (_numpy(_steps(optimizer)) != now).any():
        raise ValueError(
            "optax counts the same steps for all variables. Some of this "
            f"{type(optimizer).__name__}'s joined late or skipped a step."
        )
    return now


def _check_taken(optimizer: Any, slots: dict[str, Any], taken: list[str]) -> None:
    if sorted(taken) != sorted(slots):
        raise ValueError(
            f"This {type(optimizer).__name__} has the slots {sorted(slots)} in optax's words, but "
            f"the state has {sorted(taken)} of them. Use optax's optimizer of the same rule and "
            f"options with {len(known_variables(optimizer))} parameters."
        )


def _is_part(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _names(part: Any) -> tuple[str, ...]:
    """Returns the names of the fields of a named tuple, which has them under this name alone."""
    return getattr(part, "_fields")  # noqa: B009


def _parts(state: Any) -> Iterator[Any]:
    """Yields the states of the transformations that an optax optimizer chains."""
    if _is_part(state):
        yield state
    if isinstance(state, tuple):
        for one in state:
            yield from _parts(one)


def _mapped(state: Any, fill: Any) -> Any:
    if _is_part(state):
        inner = {name: _mapped(getattr(state, name), fill) for name in _names(state)}
        return fill(type(state)(**inner))
    return tuple(_mapped(one, fill) for one in state) if isinstance(state, tuple) else state


def _leaves(value: Any) -> list[Any]:
    import jax

    return list(jax.tree.leaves(value))


def _packed(like: Any, values: list[Any]) -> Any:
    import jax

    leaves, structure = jax.tree.flatten(like)
    if [np.shape(a) for a in leaves] != [np.shape(a) for a in values]:
        raise ValueError(
            "to_optax needs a state for the optimizer's variables, in their order. Received shapes "
            f"{[np.shape(a) for a in leaves]}, expected {[np.shape(a) for a in values]}."
        )
    return structure.unflatten([jax.numpy.asarray(v) for v in values])


def _numpy(value: Any) -> Any:
    return np.array(keras.ops.convert_to_numpy(value))
