"""What Keras's optimizers, and TensorFlow's variables and graphs, offer only underscored."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops


class OptimizerHooks(keras.optimizers.Optimizer):
    """Gives subclasses what `keras.optimizers.Optimizer` offers only underscored.

    Keras's own optimizers use the same hooks, and its guide to custom optimizers the first of them;
    there is no public name for any.
    `tests/_core/keras_private/test_optimizer_hooks.py` fails when one moves.
    """

    def _index_of(self, variable: Any) -> int:
        """Returns the place of `variable` in the list that the optimizer was built with.

        `update_step` receives a raw `tf.Variable` on TensorFlow, one replica's part of it under
        `tf.distribute`; Keras alone knows which variable of the model that is.
        """
        return self._get_variable_index(variable)

    def _decays(self, variable: Any) -> bool:
        """Returns whether weight decay acts on `variable`; see `exclude_from_weight_decay`."""
        return self._use_weight_decay(variable)

    def _clip_all(self, gradients: list[Any]) -> list[Any]:
        """Returns the gradients as `update_step` shall see them."""
        return gradients

    def _begin_update(self, variables: list[Any], learning_rate: Any) -> None:
        """Is called once per update, before `update_step` is called for each of `variables`."""

    def _update_all(self, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
        """Calls `update_step` for each variable; on TensorFlow without `tf.distribute`."""
        for gradient, variable in zip(gradients, variables, strict=True):
            self.update_step(gradient, variable, learning_rate)

    def _track(self, variable: Any) -> None:
        """Takes a variable that `add_variable` has not made among those that are saved."""
        self._track_variable(variable)

    def _update_allowed(self) -> Any:
        """Returns whether the update is to happen, a scalar tensor, or `None` for always.

        Asked on TensorFlow without `tf.distribute`, where an update can be left out as a whole.
        """
        return None

    def _move_averages(self, moved: Any) -> None:
        """Is called at the end of each step if `use_ema`; `moved` says whether weights moved."""

    def _averages(self) -> list[tuple[Any, Any]]:
        """Returns each variable with its moving average, if `use_ema`; none of empty variables."""
        pairs = zip(self._trainable_variables, self._model_variables_moving_average, strict=True)
        return [(v, average) for v, average in pairs if average is not None and 0 not in v.shape]

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates the variables, then their moving averages, which then are of constrained ones."""
        # Keras would overwrite the weights before the constraints act, in each accumulated step.
        # On TensorFlow `_overwrite_model_variables_with_average_value` prevents it: there replicas
        # are threads, which share this object.
        own: dict[str, Any] = self.__dict__
        frequency = own["ema_overwrite_frequency"]
        if keras.backend.backend() != "tensorflow":
            own["ema_overwrite_frequency"] = None
        try:
            super().apply(grads, trainable_variables)
        finally:
            own["ema_overwrite_frequency"] = frequency
        if self.use_ema and self.built:
            steps = self.gradient_accumulation_steps or 1
            self._move_averages(ops.equal(ops.mod(self._iterations.value, steps), 0))

    def finalize_variable_values(self, var_list: list[Any]) -> None:
        """Leaves the weights as they are; Keras would put the averages in their place for good."""

    def _update_model_variables_moving_average(self, trainable_variables: list[Any]) -> None:
        """Leaves the averages to `_move_averages`: Keras moves them before the constraints act."""

    def _overwrite_model_variables_with_average_value(self, trainable_variables: list[Any]) -> None:
        """Leaves this too to `_move_averages`."""

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        if keras.backend.backend() != "tensorflow":
            self._begin_update(trainable_variables, learning_rate)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: list[Any], learning_rate: Any
    ) -> None:
        # TensorFlow only: here, at the place where the variables of all replicas are updated.
        def update() -> None:
            gradients, variables = map(list, zip(*grads_and_vars, strict=True))
            self._begin_update(variables, learning_rate)
            if not is_distributed():
                self._update_all(gradients, variables, learning_rate)
                return
            super(OptimizerHooks, self)._distributed_tf_update_step(
                distribution, grads_and_vars, learning_rate
            )

        allowed = None if is_distributed() else self._update_allowed()
        if allowed is None:
            update()
        else:
            ops.cond(allowed, update, lambda: None)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> Any:
        """Returns what TensorFlow saves of the optimizer: nothing in a SavedModel, which serves.

        A `Row` has no storage that `tf.saved_model.save` could find. Keras keeps no public way to
        leave state out of one; `tests/optimizers/base/test_slots.py` saves and loads a trained
        model.
        """
        if save_type == "savedmodel":
            return {}
        return super()._trackable_children(save_type, **kwargs)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Leaves decay to `update_step`, where it is part of the rule."""

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        # On TensorFlow the replicas' gradients are summed after this hook; clipping waits for it.
        return grads if keras.backend.backend() == "tensorflow" else self._clip_all(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars: list[Any]) -> list[Any]:
        # TensorFlow only: Keras itself clips each replica's part before the sum.
        # Without replicas it would copy every gradient.
        reduced = grads_and_vars
        if is_distributed():
            reduced = super()._all_reduce_sum_gradients(grads_and_vars)
        gradients, variables = zip(*reduced, strict=True)
        return list(zip(self._clip_all(list(gradients)), variables, strict=True))


class Row(keras.Variable):
    """A variable that is a row of another, whose rows are updated in one go.

    It can be read, assigned, saved and loaded as any variable; a file does not tell them apart.
    TensorFlow only. Keras has no public way to make a variable without storage of its own;
    `tests/optimizers/base/test_slots.py` fails when these hooks move.
    """

    def __init__(self, stack: Any, row: int, name: str, initializer: Any) -> None:
        self._stack = stack
        self._row = row
        shape, dtype = tuple(stack.shape)[1:], stack.dtype
        super().__init__(initializer, shape=shape, dtype=dtype, trainable=False, name=name)

    @property
    def value(self) -> Any:
        """The numbers of this row, a tensor."""
        return self._stack.value[self._row]

    def _initialize_with_initializer(self, initializer: Any) -> None:
        self._value = None

    def _direct_assign(self, value: Any) -> None:
        self._stack.value[self._row].assign(ops.cast(value, self._stack.dtype))

    @property
    def _shared_name(self) -> str:
        return self.name

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {"VARIABLE_VALUE": self.value}

    def _restore_from_tensors(self, restored_tensors: dict[str, Any]) -> Any:
        return self.assign(restored_tensors["VARIABLE_VALUE"])


def decays(optimizer: Any, variable: Any) -> bool:
    """Whether weight decay applies to `variable`; see `exclude_from_weight_decay`."""
    return bool(optimizer._use_weight_decay(variable))


def known_variables(optimizer: Any) -> list[Any]:
    """Returns the variables that `optimizer` was built for, in its order."""
    return list(optimizer._trainable_variables)


def own_variables(optimizer: Any) -> list[Any]:
    """Returns what `optimizer` itself saves; the public `variables` may hold a wrapped one's."""
    return list(optimizer._variables)


def variable_index(optimizer: Any, variable: Any) -> int:
    """Returns the place in that order of what `update_step` receives; see `_index_of`."""
    return int(optimizer._get_variable_index(variable))


def learning_rate_source(optimizer: Any) -> Any:
    """Returns what gives the learning rate: a variable, a schedule or a callable.

    The public `learning_rate` is the rate of this step.
    """
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer._learning_rate


def moving_averages(optimizer: Any) -> list[Any]:
    """Returns the moving average of each variable, or None, in the optimizer's order."""
    return list(optimizer._model_variables_moving_average)


def slot_attributes(optimizer: Any) -> dict[str, Any]:
    """Returns the attributes of `optimizer` that may hold slots.

    Slots are lists parallel to the variables, and so are two lists of variables that Keras keeps.
    """
    lists = ("_variables", "_trainable_variables")
    return {name: value for name, value in vars(optimizer).items() if name not in lists}


def unbuild(optimizer: Any) -> Callable[[], None]:
    """Lets `optimizer` be built again, and returns what puts it back as it was.

    Keras builds an optimizer once.
    """
    attributes, number = dict(vars(optimizer)), len(own_variables(optimizer))
    indices = dict(optimizer._trainable_variables_indices)

    def put_back() -> None:
        forget_variables(optimizer, own_variables(optimizer)[number:])
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        optimizer._trainable_variables_indices.update(indices)

    optimizer._trainable_variables_indices.clear()
    optimizer.built = False
    return put_back


def forget_variables(optimizer: Any, variables: Iterable[Any]) -> None:
    """Takes variables from among those of `optimizer` that are saved."""
    for variable in variables:
        optimizer._untrack_variable(variable)


def compiles_with_xla() -> bool:
    """Returns whether TensorFlow is tracing for `jit_compile=True`.

    TensorFlow marks the graph with a control-flow context, which has no public name;
    `tests/_core/keras_private/test_optimizer_hooks.py` fails when it moves.
    """
    import tensorflow as tf

    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        context = graph._get_control_flow_context()
        while context is not None:
            if context.IsXLAContext():
                return True
            context = context.outer_context
        graph = getattr(graph, "outer_graph", None)
    return False


def is_distributed() -> bool:
    """Returns whether a `tf.distribute` strategy is in force; TensorFlow only."""
    import tensorflow as tf

    return tf.distribute.has_strategy()


def num_replicas() -> int:
    """Returns how many replicas the strategy in force trains; 1 without one."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def strategy_scope(model: Any) -> Any:
    """Returns the scope of the `tf.distribute` strategy that `model` was made in.

    Variables and layers that are to be trained with the model's own are made in it.
    """
    strategy = getattr(model, "distribute_strategy", None)  # TensorFlow only.
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def layout_of(variable: Any) -> Any:
    """Returns how a JAX `ModelParallel` shards `variable`; `None` elsewhere.

    Keras gives a slot of the variable's own type its layout; there is no public name for it.
    """
    return getattr(variable, "_layout", None)


def before_training() -> Any:
    """Returns a context in which assignments happen once, now, though a step is being traced.

    Keras builds an optimizer while TensorFlow traces its first step.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.init_scope()
    return contextlib.nullcontext()


def is_sparse(gradient: Any) -> bool:
    """Returns whether a gradient holds only the rows that an embedding looked up."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return isinstance(gradient, tf.IndexedSlices)
    return False


def dense(gradient: Any) -> Any:
    """Returns a gradient as a tensor; rows that an embedding looked up twice are added up."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.convert_to_tensor(gradient)
    return gradient
