"""The signals of a model while it trains."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.checks import require_at_least, require_finite, require_graph
from kerastools._core.registration import Configured
from kerastools.diagnosis._plot import plot_heat_map
from kerastools.diagnosis._probe.layer_stats import FIGURES, Watch
from kerastools.diagnosis._probe.losses import check_labels, resolve_loss
from kerastools.diagnosis._probe.nan_tracer import Trap


class SignalMonitor(Configured, keras.callbacks.Callback):
    """Takes the figures of `diagnose` again and again while a model trains, layer by layer.

    Every `every` steps the rows that it was given go forward and backward through the model as it
    is, in one compiled call that returns a few numbers per layer:

    | figure | of |
    |---|---|
    | `second_moment` | mean of the squared outputs |
    | `gradient_norm` | norm of the loss's gradient by the kernels |
    | `weight_norm` | norm of the kernels |
    | `saturated` | fraction of outputs near a bound; layers with a bounded activation |
    | `dead` | fraction of units that are zero for all rows; rectified layers |

    They stand in `steps` and `figures` for as long as the callback lives, go to TensorBoard on
    request, and `.plot()` draws them as a heat map of layers over time. The loss of every training
    step is watched inside the graph: in the step in which it is NaN or infinite the batch is run
    again layer by layer, training stops, and `culprit` names the first layer that made it.

    Args:
        x: The rows that are looked at: one batch of inputs, scaled as in training; an array, or a
            list or dictionary of arrays.
        y: Their targets, in the same form.
        every: Steps between two looks. A look costs one to two steps with as many rows; what that
            is of the whole, `benchmarks/signal_monitor.py` measures.
        log_dir: Folder for TensorBoard; needs TensorFlow. By default nothing is written.

    Attributes:
        layers: Paths of the layers that have figures.
        steps: The steps at which they were taken, counted from 0 over all calls of `fit`.
        figures: By the names above, an array (looks, layers); NaN where a layer has no such figure.
        culprit: `None`, or the path of the first layer whose output was not finite.

    Raises:
        ValueError: At the start of training, if the model has no graph or no loss, or `x` and `y`
            do not fit it.

    Example:

    >>> import numpy as np
    >>> x, y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")
    >>> dense = keras.layers.Dense(3, activation="relu", name="hidden")
    >>> model = keras.Sequential([keras.Input((4,)), dense, keras.layers.Dense(1, name="output")])
    >>> model.compile("sgd", "mse")
    >>> monitor = SignalMonitor(x, y, every=2)
    >>> history = model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[monitor])
    >>> monitor.layers, monitor.steps, monitor.figures["gradient_norm"].shape
    (['hidden', 'output'], [0, 2, 4, 6], (4, 2))

    Reference: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010, figures 2 to 4.
    """

    def __init__(self, x: Any, y: Any, every: int = 50, log_dir: str | Path | None = None) -> None:
        super().__init__()
        require_at_least(1, "SignalMonitor", every=every)
        self.x = tree.map_structure(lambda a: require_finite("x", a, "SignalMonitor"), x)
        self.y = tree.map_structure(lambda a: require_finite("y", a, "SignalMonitor"), y)
        self.every = int(every)
        self.log_dir = None if log_dir is None else str(log_dir)
        self.steps: list[int] = []
        self.culprit: str | None = None
        self._looks: list[np.ndarray] = []
        self._step = 0
        self._watch: Watch | None = None
        self._trap: Trap | None = None
        self._writer: Any = None

    @property
    def layers(self) -> list[str]:
        """Paths of the layers that have figures."""
        return self._watch.layers if self._watch else []

    @property
    def figures(self) -> dict[str, np.ndarray]:
        """By name of the figure, an array (looks, layers)."""
        looks = np.array(self._looks).reshape(len(self._looks), len(self.layers), len(FIGURES))
        return {name: looks[..., i] for i, name in enumerate(FIGURES)}

    def set_model(self, model: keras.Model) -> None:
        """Prepares the look and the trap; Keras traces the training step after this."""
        super().set_model(model)
        require_graph(model, "SignalMonitor")
        if self._trap is not None:
            self._trap.release()  # The run before was interrupted.
        loss = resolve_loss(model, None, "SignalMonitor")
        check_labels(model, self.y, loss, "SignalMonitor")
        if len(loss.parts) > 1:
            loss.build(self.y)
        self._watch = Watch(model, loss, "SignalMonitor")
        self._batch = (self.x, tree.map_structure(ops.convert_to_tensor, self.y), None)
        self._trap = Trap(model, "SignalMonitor")
        self._trap.set()
        if self.log_dir is not None and self._writer is None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the weights that this step begins with, if it is time."""
        self._first = batch
        # At the end of an epoch Keras may announce a step that never comes.
        if self._step % self.every == 0 and self.steps[-1:] != [self._step]:
            self._look()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts; one call covers several steps with `steps_per_execution`."""
        before = self._step
        self._step += batch - self._first + 1
        if before // self.every != self._step // self.every:
            self._check()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops if a step of this epoch was not finite."""
        self._check()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the model as it was, and drops a look at a step that never came."""
        if self.steps[-1:] == [self._step]:
            self.steps.pop()
            self._looks.pop()
        if self._trap is not None:
            self._trap.release()
            self._trap = None

    def plot(self, target: Any = None, figure: str = "gradient_norm") -> Any:
        """Draws one figure as a heat map, layers over time; norms and moments by their logarithm.

        Args:
            target: The path of a picture to write, or matplotlib axes to draw on. By default a new
                figure, which is neither written nor shown.
            figure: One of the names in `figures`.

        Returns:
            The matplotlib figure.

        Raises:
            ValueError: If nothing was looked at yet, or the name is unknown.
            ImportError: If matplotlib is missing; `pip install 'kerastools[plot]'` brings it.
        """
        if figure not in FIGURES or not self.steps:
            raise ValueError(
                f"SignalMonitor.plot needs one of {FIGURES} and a model that was trained with it. "
                f"Received figure={figure!r} after {len(self.steps)} looks."
            )
        return plot_heat_map(figure, self.steps, self.layers, self.figures[figure], target)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain data."""
        data = tree.map_structure(lambda a: a.tolist(), {"x": self.x, "y": self.y})
        return super().get_config() | data

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SignalMonitor":
        """Returns the callback that `get_config` described."""
        return cls(**config | {"x": np.array(config["x"]), "y": np.array(config["y"])})

    def _look(self) -> None:
        assert self._watch is not None
        # On JAX reading self.model brings the weights of this step into its variables.
        if self.model is None:
            return
        figures = self._watch.figures(self.x, self._batch)
        self._looks.append(figures)
        self.steps.append(self._step)
        broken = ~np.isfinite(figures[:, 0])
        if broken.any() and self.culprit is None:
            self._stop(self.layers[int(np.argmax(broken))], "its outputs, for the rows given", None)
        if self._writer is not None:
            self._write(figures)

    def _check(self) -> None:
        found = self._trap.culprit() if self._trap and self.culprit is None else None
        if found is not None:
            path, weights_are_broken, step = found
            what = "weights since the step before" if weights_are_broken else "outputs"
            self._stop(path, f"its {what}", step)

    def _stop(self, path: str, what: str, step: int | None) -> None:
        self.culprit = path
        self.model.stop_training = True
        # On JAX the step is not known inside the graph, but between which looks it was.
        when = f"in step {step}" if step is not None and step >= 0 else f"by step {self._step}"
        print(f"\nSignalMonitor: NaN or infinity first in {path} {when}: {what}. Training stops.")

    def _write(self, figures: np.ndarray) -> None:
        import tensorflow as tf

        with self._writer.as_default(step=self._step):
            for path, row in zip(self.layers, figures, strict=True):
                for name, value in zip(FIGURES, row, strict=True):
                    if not np.isnan(value):
                        tf.summary.scalar(f"{name}/{path}", value)
        self._writer.flush()
