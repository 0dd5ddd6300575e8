"""Optimizers that follow a model whose layers were frozen or unfrozen."""

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kerastools._core.checks import require_built
from kerastools._core.keras_private.optimizer_hooks import (
    forget_variables,
    known_variables,
    moving_averages,
    own_variables,
    slot_attributes,
    strategy_scope,
    unbuild,
)
from kerastools.optimizers._base.evaluation_point import EvaluationPoint
from kerastools.optimizers._base.rate_factors import joined_at, set_joined
from kerastools.optimizers._base.slots import are_slots, optimizer_tree, vector_slots


def rebind(optimizer: Any, model: Any) -> Any:
    """Fits `optimizer`, in place, to the variables of `model` that are trainable now.

    A Keras optimizer is bound to the variables it was built with. After a layer is frozen or
    unfrozen Keras ignores the change, fails, or (on JAX, between variables of equal shape) trains
    one variable with another's momentum; compiling with a new optimizer forgets everything. Call
    this instead after changing `layer.trainable`, then go on with `fit`:

    - slots of the variables that stay keep their values, bit for bit, by the identity of the
      variable and never by name, shape or position;
    - iterations, learning rate, its schedule, every hyperparameter and the loss scale are kept;
    - slots of variables that join begin at their initial values, their moving average (`use_ema`)
      at the variable's value. A variable that joins late counts its own steps: its first steps are
      those it would take with a new optimizer. With Keras's Adam alone they would be up to 5.9
      times too large, because it corrects the bias of all by the steps of the run;
    - slots of variables that left are dropped. Where the optimizer evaluates beside the weights
      that it trains (exact Nesterov momentum), these variables stop at their evaluation weights.

    It works with every optimizer that keeps its state in lists parallel to its variables, made in
    `build`: all of this package and of `keras.optimizers`, also wrapped in `LossScaleOptimizer` or
    `MultiOptimizer`. If the model is compiled with `optimizer`, its training, test and predict
    functions are made anew, as `compile` would.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, built or not; for a compiled model pass
            `model.optimizer`, which under mixed precision wraps the one you compiled with.
        model: The built model whose layers changed.

    Returns:
        `optimizer`.

    Raises:
        TypeError: If `optimizer` is no Keras optimizer or `model` no Keras model.
        ValueError: If `optimizer` was built for another model, is wrapped by the model's own, or
            keeps state that is not one slot per variable. Nothing is changed then.

    Example:

    >>> import numpy as np
    >>> trunk, head = keras.layers.Dense(4, name="trunk"), keras.layers.Dense(1, name="head")
    >>> model = keras.Sequential([keras.Input((3,)), trunk, head])
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> x, y = np.ones((8, 3)), np.ones((8, 1))
    >>> trunk.trainable = False
    >>> _ = model.fit(x, y, epochs=5, verbose=0)
    >>> trunk.trainable = True
    >>> optimizer = rebind(model.optimizer, model)
    >>> _ = model.fit(x, y, epochs=5, verbose=0)
    >>> int(optimizer.iterations)
    10
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            f"rebind needs a keras.optimizers.Optimizer. Received {optimizer!r} of type "
            f"{type(optimizer).__name__}. For a compiled model pass model.optimizer."
        )
    require_built(model, "rebind")
    compiled_with = model.optimizer if getattr(model, "compiled", False) else None
    _refuse_strangers(optimizer, model, compiled_with)

    wanted = list(model.trainable_variables)
    with strategy_scope(model):
        if not optimizer.built:
            optimizer.build(wanted)
        elif [id(v) for v in known_variables(optimizer)] != [id(v) for v in wanted]:
            _rebuild(optimizer, wanted)

    if compiled_with is optimizer:
        # Dropped first: JAX would find the old trace while the old function is alive.
        was_made = model.train_function is not None
        model.train_function = model.test_function = model.predict_function = None
        if was_made:  # By a `fit`, which may be running; else the next one makes it.
            model.make_train_function(force=True)
    return optimizer


def forget_slots(model: Any) -> None:
    """Unbinds the built optimizer of `model` from all variables; `rebind` then resets the slots."""
    with strategy_scope(model):
        _rebuild(model.optimizer, [])


def _refuse_strangers(optimizer: Any, model: Any, compiled_with: Any) -> None:
    wrapped = [] if compiled_with is None else list(optimizer_tree(compiled_with))[1:]
    if any(part is optimizer for part in wrapped):
        raise ValueError(
            f'rebind received an optimizer that model "{model.name}" uses inside its '
            f"{type(compiled_with).__name__}. Pass model.optimizer instead."
        )
    own = {id(v) for v in model.variables}
    strangers = [v for v in known_variables(optimizer) if id(v) not in own]
    if strangers:
        raise ValueError(
            f'rebind received an optimizer that was built for another model than "{model.name}": '
            f"{len(strangers)} of its {len(known_variables(optimizer))} variables are not in it, "
            f"the first is {strangers[0].path!r}. Compile the model with a new optimizer."
        )


def _rebuild(optimizer: Any, wanted: list[Any]) -> None:
    parts = list(optimizer_tree(optimizer))
    joined: dict[int, int] = {}
    for part in parts:
        joined |= dict.fromkeys(map(id, known_variables(part)), 0) | joined_at(part)
    # What leaves stays at the weights that are meant, which the optimizer may train beside.
    swapped = [part for part in parts if isinstance(part, EvaluationPoint) and part.to_evaluation()]
    rebuild_slots(optimizer, wanted)
    for part in swapped:
        part.to_training()
    for part in parts:
        now = int(keras.ops.convert_to_numpy(part.iterations))
        steps = {id(v): joined.get(id(v), now) for v in known_variables(part)}
        set_joined(part, {key: step for key, step in steps.items() if step})


def rebuild_slots(optimizer: Any, variables: Sequence[Any]) -> None:
    """Builds `optimizer` for `variables`; slots of variables it knew already keep their values.

    The optimizer's own `build` makes the new slots, so that they begin at their initial values and
    lie in the order in which a saved file expects them. What is not a slot stays the same object
    (iterations, learning rate, hyperparameters) or keeps its value.

    Raises:
        ValueError: If `build` makes variables that are neither slots in lists parallel to
            `variables` nor single variables under an attribute; the optimizer is then as before.
    """
    parts = list(optimizer_tree(optimizer))
    snapshots = [_Snapshot(part) for part in parts]
    put_back = [unbuild(part) for part in parts]
    try:
        optimizer.build(list(variables))
        for part in parts:
            if not part.built:  # An optimizer of a MultiOptimizer that has no variable left.
                part.build([])
        carried = [snapshot.pairs() for snapshot in snapshots]
    except Exception:
        for restore in put_back:
            restore()
        raise
    for snapshot, pairs in zip(snapshots, carried, strict=True):
        for new, value in pairs:
            new.assign(value)
        snapshot.start_averages()
        snapshot.drop_replaced()


class _Snapshot:
    """One optimizer before it is built again."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.known = known_variables(optimizer)
        self.attributes = slot_attributes(optimizer)
        self.variables = own_variables(optimizer)
        self.position = {id(v): i for i, v in enumerate(self.known)}

    def rebuilt(self) -> Iterator[tuple[Any, Any]]:
        """Yields (old value, new value) of each attribute that `build` has set again."""
        for name, new in slot_attributes(self.optimizer).items():
            old = self.attributes.get(name)
            if new is not old:
                yield old, new

    def pairs(self) -> list[tuple[Any, Any]]:
        """Returns (new, old) for each variable of the optimizer that takes over a value."""
        wanted = known_variables(self.optimizer)
        pairs, accounted = [], {id(v) for v in self.variables}
        for old, new in self.rebuilt():
            if isinstance(new, keras.Variable):
                accounted.add(id(new))
                if isinstance(old, keras.Variable):
                    pairs.append((new, self.carried(new, old, wanted)))
            elif are_slots(new, len(wanted)):
                accounted.update(id(slot) for slot in new)
                if not are_slots(old, len(self.known)):
                    continue
                for variable, slot in zip(wanted, new, strict=True):
                    i = self.position.get(id(variable))
                    if i is not None and slot is not None and old[i] is not None:
                        # JAX may not be given one buffer under two names.
                        pairs.append((slot, keras.ops.copy(old[i])))
        strays = [v for v in own_variables(self.optimizer) if id(v) not in accounted]
        strays += [new for new, old in pairs if tuple(new.shape) != tuple(old.shape)]
        if strays:
            raise ValueError(
                f"{type(self.optimizer).__name__} keeps state that is not one slot per variable: "
                f"{strays[0].path!r} of shape {tuple(strays[0].shape)}. It cannot be carried to "
                "another set of variables; compile the model with a new optimizer instead."
            )
        return pairs

    def carried(self, new: Any, old: Any, wanted: list[Any]) -> Any:
        """Returns what a single variable takes over: all, or its numbers of known variables."""
        if not any(vector is new for vector in vector_slots(self.optimizer)):
            return keras.ops.copy(old)
        values, held = (np.array(keras.ops.convert_to_numpy(v)) for v in (new, old))
        for j, variable in enumerate(wanted):
            if id(variable) in self.position:
                values[j] = held[self.position[id(variable)]]
        return values

    def start_averages(self) -> None:
        """Lets the moving average of each variable that has just joined begin at its value."""
        if not self.optimizer.use_ema:
            return
        averages = moving_averages(self.optimizer)
        for variable, average in zip(known_variables(self.optimizer), averages, strict=True):
            if average is not None and id(variable) not in self.position:
                average.assign(keras.ops.copy(variable))

    def drop_replaced(self) -> None:
        """Forgets the variables in whose place `build` has made new ones."""
        for old, _ in self.rebuilt():
            several = old if isinstance(old, list | tuple) else [old]
            replaced = [v for v in several if isinstance(v, keras.Variable)]
            forget_variables(self.optimizer, replaced)
