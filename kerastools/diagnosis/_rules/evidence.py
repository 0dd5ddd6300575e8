"""What a rule may look at, and the limits of a slope that several rules share."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from kerastools._core.graph.flow import Flow
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._layer_signal import LayerSignal
from kerastools.diagnosis._look_ups import looks_up
from kerastools.diagnosis._probe.signals import LayerRecord
from kerastools.diagnosis._probe.trial_steps import Steps
from kerastools.diagnosis._subject import Subject

# What a rule returns.
Findings = Iterable[Finding]

# A change per layer, in decades, that is no chance: ReLU with Glorot weights loses 0.301 of the
# second moment, while sound nets of 50 narrow layers wander by less than 0.1.
SLOPE = 0.15
# The change from the first layer to the last that it must add up to: a shallow net bears a slope.
DECADES = 2.0


@dataclass(frozen=True, eq=False)
class Output:
    """One output of the model and what it is compared with.

    Attributes:
        place: Its place among the outputs.
        layer: Path of the layer that returns it.
        activation: Name of the activation that it went through last; `"linear"` if none,
            `"unknown"` behind what is not understood.
        tail: The activations between the last kernel and it, with the paths of their layers.
        loss_name: Name of its loss, such as `"mean_squared_error"`.
        from_logits: Whether that loss takes logits.
        values: What the model returned on the batch.
        targets: Rows of its targets, the same as of the inputs.
    """

    place: int
    layer: str
    activation: str
    tail: tuple[tuple[str, str], ...]
    loss_name: str
    from_logits: bool
    values: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was measured on one batch, and how the model is going to be trained.

    Attributes:
        subject: The model, as it was passed, and how it is going to be trained.
        loss: The loss of the batch.
        signals: The figures of each layer.
        records: What passed through each layer.
        flow: Where the kernels stand.
        outputs: Each output that has a loss.
        x: Rows of each input, evenly spaced, at most 10 000.
        input_names: Their names.
        steps: Takes a factor of the learning rate; returns a few steps of the given optimizer.
            `None` without an optimizer.
        output_gradients: Measures, layer by layer, the norm of the loss's gradient by its output.
        has_schedule: Whether the learning rate is a schedule, which may begin small on purpose.
        usual_rate: The learning rate that the class of the optimizer has by default.
        entering: What enters the first kernels in training, for more rows than a batch may have,
            by path.
        penalties: For each regularized kernel its path, and the norms of the gradients of its
            penalty and of all else that is minimized; the sum of all penalties under "".
    """

    subject: Subject
    loss: float
    signals: tuple[LayerSignal, ...]
    records: tuple[LayerRecord, ...]
    flow: Flow
    outputs: tuple[Output, ...]
    x: tuple[np.ndarray, ...]
    input_names: tuple[str, ...]
    steps: Callable[[float], Steps] | None
    output_gradients: Callable[[], list[tuple[str, float]]]
    has_schedule: bool
    usual_rate: float
    entering: dict[str, np.ndarray]
    penalties: dict[str, tuple[float, float]]

    @functools.cached_property
    def look_ups(self) -> set[str]:
        """Paths of layers that look numbers up in a table."""
        return {r.path for r in self.records if looks_up(r.layer)}

    def hidden(self) -> list[LayerSignal]:
        """Returns the layers with kernels up to the first that is not finite, outputs excepted.

        The output's scale is the loss's business: a softmax over many classes is small by nature.
        Embeddings stand beside each other, and are drawn to no variance.
        """
        hidden = []
        for signal in self.signals:
            if not np.isfinite(signal.second_moment):
                break
            if signal.has_kernel and not signal.is_output and signal.layer not in self.look_ups:
                hidden.append(signal)
        return hidden
