"""A trap in the training step for the first number that is none."""

from typing import Any

import keras
from keras import ops

from kerastools._core.graph.calls import Call, read_graph
from kerastools._core.keras_private.patched import patched
from kerastools._core.keras_private.training import FitEnd
from kerastools.diagnosis._probe.signals import training_pass


class Trap:
    """Finds, in the very step in which the loss is no number any more, the first layer at fault.

    It stands in the compiled training step and costs one comparison as long as the loss is finite.
    """

    def __init__(self, model: Any, caller: str) -> None:
        graph = read_graph(model, caller)
        self.model = model
        self.paths = [call.path for call in graph.entered().calls]
        self.found: list[Any] | None = None
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            # Which calls, and which weights, hold NaN or infinity; −1 while all is well.
            self._flags = tf.Variable(tf.fill([len(self.paths), 2], -1), trainable=False)
            self._step = tf.Variable(-1, trainable=False, dtype=tf.int64)

        def flags_of(x: Any) -> Any:
            flags = []

            def look(call: Call, entering: list[Any], outputs: list[Any]) -> None:
                weights = getattr(call.operation, "trainable_weights", [])
                flags.append(ops.stack([_broken(outputs), _broken(weights)]))

            # What the step sees of each variable, so that nothing is changed but a copy.
            state = [(v, ops.convert_to_tensor(v)) for v in model.variables]
            training_pass(graph, x, None, lambda y, predictions: None, state, look)
            return ops.stack(flags)

        self._flags_of = flags_of

    def set(self) -> None:
        """Puts the trap into the training step, which is traced again."""

        def trapped(compute_loss: Any, x: Any = None, *args: Any, **kwargs: Any) -> Any:
            loss = compute_loss(x, *args, **kwargs)
            training = args[3] if len(args) > 3 else kwargs.get("training", True)
            if training and loss is not None:
                self._spring(loss, x)
            return loss

        patch = patched(self.model, compute_loss=trapped)
        self.model.train_function = None

        def take_out() -> None:
            patch.undo()
            self.model.train_function = None

        self._end = FitEnd(self.model, take_out)

    def release(self) -> None:
        """Takes the trap out again."""
        self._end()

    def culprit(self) -> tuple[str, bool, int] | None:
        """Returns path, whether its weights were broken, and step of the first; else `None`."""
        if keras.backend.backend() == "tensorflow" and int(self._step) >= 0:
            self.found = [self._flags.numpy(), int(self._step)]
        if self.found is None:
            return None
        flags, step = self.found
        first = next((i for i, (output, _) in enumerate(flags) if output == 1), None)
        if first is None:
            return "the loss", False, step
        return self.paths[first], bool(flags[first][1] == 1), step

    def _spring(self, loss: Any, x: Any) -> None:
        finite = ops.isfinite(ops.cast(loss, "float32"))
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            def note() -> Any:
                self._flags.assign(self._flags_of(x))
                self._step.assign(tf.cast(self.model.optimizer.iterations.value, tf.int64))
                return True

            tf.cond(tf.logical_or(finite, self._step >= 0), lambda: True, note)
        else:
            import jax

            def note_on_host(flags: Any) -> None:
                if self.found is None:
                    self.found = [flags, -1]

            def note_in_step(x: Any) -> None:
                jax.debug.callback(note_on_host, self._flags_of(x))

            jax.lax.cond(finite, lambda x: None, note_in_step, x)


def _broken(tensors: list[Any]) -> Any:
    """Returns 1 if one of them holds NaN or infinity, else 0."""
    floats = [t for t in tensors if "float" in str(t.dtype)]
    bad = [ops.logical_not(ops.all(ops.isfinite(ops.convert_to_tensor(t)))) for t in floats]
    return ops.cast(ops.any(ops.stack(bad)), "int32") if bad else ops.zeros((), "int32")
