"""The underscored hooks of Keras's optimizer, under public names."""

from typing import Any

import keras


class OptimizerHooks(keras.optimizers.Optimizer):
    """Gives subclasses four things that `keras.optimizers.Optimizer` offers only underscored.

    Keras's own optimizers use the same hooks, and its guide to custom optimizers the first of them;
    there is no public name for any. `tests/_core/test_optimizer_hooks.py` fails when one moves.
    """

    def index_of(self, variable: Any) -> int:
        """Returns the place of `variable` in the list that the optimizer was built with.

        `update_step` receives a raw `tf.Variable` on TensorFlow, one replica's part of it under
        `tf.distribute`; Keras alone knows which variable of the model that is.
        """
        return self._get_variable_index(variable)

    def decays(self, variable: Any) -> bool:
        """Returns whether weight decay acts on `variable`; see `exclude_from_weight_decay`."""
        return self._use_weight_decay(variable)

    def clip_gradients(self, gradients: list[Any]) -> list[Any]:
        """Returns the gradients as `update_step` shall see them."""
        return gradients

    def begin_update(self) -> None:
        """Is called once per update, before `update_step` is called for each variable."""

    def _backend_update_step(self, *args: Any) -> None:
        if keras.backend.backend() != "tensorflow":
            self.begin_update()
        super()._backend_update_step(*args)

    def _distributed_tf_update_step(self, *args: Any) -> None:
        # TensorFlow only: here, at the place where the variables of all replicas are updated.
        self.begin_update()
        super()._distributed_tf_update_step(*args)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Leaves decay to `update_step`, where it is part of the rule."""

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        # On TensorFlow the replicas' gradients are summed after this hook; clipping waits for it.
        return grads if keras.backend.backend() == "tensorflow" else self.clip_gradients(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars: list[Any]) -> list[Any]:
        # TensorFlow only: Keras itself clips each replica's part before the sum.
        reduced = super()._all_reduce_sum_gradients(grads_and_vars)
        gradients, variables = zip(*reduced, strict=True)
        return list(zip(self.clip_gradients(list(gradients)), variables, strict=True))
