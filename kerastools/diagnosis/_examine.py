"""Gathering the evidence that all rules look at."""

import contextlib
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.graph.activations import activation_name, own_activation
from kerastools._core.graph.calls import as_recorded, read_graph, replay
from kerastools._core.graph.fans import is_kernel
from kerastools._core.graph.flow import flow_of
from kerastools._core.graph.kinds import is_kind, unwrapped
from kerastools._core.keras_private.optimizer_hooks import learning_rate_source
from kerastools.diagnosis._layer_signal import summarise
from kerastools.diagnosis._look_ups import looks_up
from kerastools.diagnosis._probe.losses import loss_name
from kerastools.diagnosis._probe.signals import (
    LayerRecord,
    differentiate,
    measure,
    output_gradients,
    to_numpy,
)
from kerastools.diagnosis._probe.trial_steps import Stepper, Steps
from kerastools.diagnosis._rules import Evidence, Output
from kerastools.diagnosis._subject import Subject

_NAME = "diagnose"
# Batches that the optimizer's first steps are taken on, in turn.
_NUM_BATCHES = 5
# Rows that rules on data look at, and rows and bytes of what enters the first kernels.
_MOST_ROWS, _ROWS_TO_ENTER, _BYTES_TO_ENTER = 10_000, 1024, 2**26
_USUAL_RATE = 1e-3
# Rows that are measured at least, whatever the batch size.
_FEWEST_ROWS = 8


def examine(subject: Subject) -> tuple[Evidence, int]:
    """Returns the evidence, and the rows of the batch that was run."""
    model = subject.model
    graph = read_graph(model, _NAME)
    with warnings.catch_warnings():
        _quiet()
        (x, y), *_ = batches = _batches(subject, 1 + (subject.optimizer is not None) * _NUM_BATCHES)
        value, records = measure(model, x, y, subject.loss, _NAME)
        stepper = None
        if subject.optimizer is not None and model.trainable_variables:
            stepper = Stepper(model, batches[1:], subject.loss, subject.optimizer, _NAME)
        source = subject.optimizer and learning_rate_source(subject.optimizer)
        evidence = Evidence(
            subject=subject,
            loss=value,
            signals=tuple(summarise(record) for record in records),
            records=tuple(records),
            flow=flow_of(model, _NAME),
            outputs=_outputs(subject, records),
            x=tuple(a[_rows(subject)] for a in graph.by_input(subject.x) if a is not None),
            input_names=tuple(layer.name for layer in graph.input_layers),
            steps=_steps(stepper) if stepper else None,
            output_gradients=lambda: output_gradients(model, x, y, subject.loss, records, _NAME),
            has_schedule=not isinstance(source, keras.Variable),
            usual_rate=_usual_rate(subject.optimizer),
            entering=_entering(subject),
            penalties=_penalties(model, records),
        )
    return evidence, len(tree.flatten(x)[0])


def _quiet() -> None:
    """Silences Keras's own words on outputs, which the rule on them has a finding for."""
    warnings.filterwarnings("ignore", message=".*from_logits.*")
    warnings.filterwarnings("ignore", message="(?s).*softmax over axis.*")


def _steps(stepper: Stepper) -> Any:
    @functools.cache
    def steps(factor: float) -> Steps:
        with warnings.catch_warnings():
            _quiet()
            return stepper.run(factor)

    return steps


def _batches(subject: Subject, num: int) -> list[tuple[Any, Any]]:
    """Returns one batch evenly spaced over the rows, and others drawn at random."""
    rows, size = subject.num_rows, min(subject.num_rows, subject.batch_size)
    rng = np.random.default_rng(0)
    first = min(rows, max(size, _FEWEST_ROWS))
    picks = [np.unique(np.linspace(0, rows - 1, first).astype(int))]
    picks += [rng.choice(rows, size, replace=False) for _ in range(num - 1)]
    return [subject.batch(pick) for pick in picks]


def _outputs(subject: Subject, records: Sequence[LayerRecord]) -> tuple[Output, ...]:
    """Returns each output with its loss and targets; none where a model returns its input."""
    graph = read_graph(subject.model, _NAME).entered()
    rows = _rows(subject)
    found = {r.returned: r for r in records if r.returned is not None}
    targets = subject.loss.by_output(subject.y)
    outputs = []
    for place, (loss, y) in enumerate(zip(subject.loss.parts, targets, strict=False)):
        record = found.get(place)
        if loss is None or y is None or record is None:
            continue
        if is_kind(record.layer, "dropout"):
            record = _before(record, records)
        tail, is_known = _tail(graph, graph.outputs[place])
        activation = tail[-1][0] if tail else ("linear" if is_known else "unknown")
        config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
        outputs.append(
            Output(
                place=place,
                layer=record.path,
                activation=activation,
                tail=tail,
                loss_name=loss_name(loss),
                from_logits=bool(config.get("from_logits", False)),
                values=np.atleast_2d(record.output),
                targets=np.asarray(y)[rows],
            )
        )
    return tuple(outputs)


def _rows(subject: Subject) -> np.ndarray:
    """Returns the rows that rules on data look at."""
    num = min(subject.num_rows, _MOST_ROWS)
    return np.linspace(0, subject.num_rows - 1, num).astype(int)


# Behind these an output is still what the activation made.
_PASSING = ("activation", "dropout", "noise", "identity", "reshape", "resize", "penalty", "masking")


def _tail(graph: Any, tensor: Any) -> tuple[tuple[tuple[str, str], ...], bool]:
    """Returns the activations behind the last kernel, and whether all behind it is understood."""
    tail: list[tuple[str, str]] = []
    while (call := graph.producer(tensor)) is not None:
        layer = unwrapped(call.operation)
        if (activation := own_activation(layer)) is not None:
            tail.insert(0, (activation_name(activation), call.path))
        if is_kind(layer, "kernel", "recurrent"):
            return tuple(tail), True
        if not (is_kind(layer, *_PASSING) and len(call.data) == 1):
            break
        tensor = call.data[0]
    return tuple(tail), False


def _usual_rate(optimizer: Any) -> float:
    try:
        return float(ops.convert_to_numpy(type(optimizer)().learning_rate))
    except Exception:  # A class of the user's own may need arguments.
        return _USUAL_RATE


class _AllSeen(Exception):  # noqa: N818
    """The first kernels were reached."""


def _entering(subject: Subject) -> dict[str, np.ndarray]:
    """Returns what enters the first kernels in training; what comes after is not computed."""
    model = subject.model
    wanted = set(flow_of(model, _NAME).first)
    first = next(a for a in tree.flatten(subject.x) if a is not None)
    num = max(1, min(subject.num_rows, _ROWS_TO_ENTER, _BYTES_TO_ENTER // max(1, first[0].nbytes)))
    x, _ = subject.batch(np.linspace(0, subject.num_rows - 1, num).astype(int))
    seen: dict[str, np.ndarray] = {}

    def look(call: Any, args: Any, kwargs: Any) -> Any:
        if call.path in wanted:
            wanted.discard(call.path)
            entering = next((a for a in tree.flatten((args, kwargs)) if ops.is_tensor(a)), None)
            if entering is not None and not _may_look_up(call.operation, entering):
                seen[call.path] = to_numpy(entering)
        if not wanted:
            raise _AllSeen
        return as_recorded(call, args, kwargs)

    with contextlib.suppress(_AllSeen), keras.StatelessScope():
        # In training, where a batch normalization in front normalizes by the rows.
        replay(read_graph(model, _NAME), x, look, training=True)
    return seen


def _may_look_up(operation: Any, entering: Any) -> bool:
    """Whether a layer, if it is one that nobody knows, may take these numbers as places."""
    if looks_up(operation):
        return True
    if not is_kind(operation, "unknown"):
        return False
    values = to_numpy(entering)
    return values.dtype.kind != "f" or bool((values == np.floor(values)).all())


def _penalties(model: Any, records: Sequence[LayerRecord]) -> dict[str, tuple[float, float]]:
    """Returns the gradients' norms of penalties and of all else, and the sum of all penalties."""
    variables = [v for v in model.trainable_variables if v.regularizer is not None]
    if not variables:
        return {}

    def penalty(values: list[Any]) -> tuple[Any, list[Any]]:
        pairs = zip(variables, values, strict=True)
        return sum(ops.sum(v.regularizer(value)) for v, value in pairs), []

    total, _, gradients = differentiate(penalty, [v.value for v in variables])
    by_id = {id(v): to_numpy(g) for v, g in zip(variables, gradients, strict=True)}
    found = {"": (float(to_numpy(total)), 0.0)}
    for record in records:
        trained = [v for v in getattr(record.layer, "trainable_weights", []) if is_kernel(v)]
        for v, whole in zip(trained, record.gradients, strict=False):
            if id(v) in by_id:
                own = by_id[id(v)]
                norms = (float(np.linalg.norm(own)), float(np.linalg.norm(whole - own)))
                found[record.path] = max(found.get(record.path, (0.0, 0.0)), norms)
    return found


def _before(dropout: LayerRecord, records: Sequence[LayerRecord]) -> LayerRecord:
    """Returns the record whose output went into a dropout."""
    entering, earlier = dropout.entering, records[: list(records).index(dropout)]
    same = (r for r in reversed(earlier) if r.output.shape == dropout.output.shape)
    return next(
        (r for r in same if entering is not None and np.array_equal(r.output, entering)), dropout
    )
