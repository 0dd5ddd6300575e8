"""Optimizers that follow a model whose layers were frozen or unfrozen."""

from typing import Any

import keras

from kerastools._core.checks import require_built
from kerastools._core.keras_private.optimizer_hooks import known_variables
from kerastools.optimizers._base.evaluation_point import EvaluationPoint
from kerastools.optimizers._base.rate_factors import joined_at, set_joined
from kerastools.optimizers._base.rebuild import rebuild_slots
from kerastools.optimizers._base.slots import optimizer_tree


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
    if not optimizer.built:
        optimizer.build(wanted)
    elif [id(v) for v in known_variables(optimizer)] != [id(v) for v in wanted]:
        _rebuild(optimizer, wanted)

    if compiled_with is optimizer:
        # Dropped first: JAX would find the old trace while the old function is alive.
        model.train_function = model.test_function = model.predict_function = None
        model.make_train_function(force=True)
    return optimizer


def forget_slots(optimizer: Any) -> None:
    """Unbinds a built `optimizer` from all variables; the next `rebind` begins their slots anew."""
    _rebuild(optimizer, [])


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
