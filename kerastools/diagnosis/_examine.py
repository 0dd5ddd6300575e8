"""Gathering the evidence that all rules look at."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from kerastools._core.graph.activations import activation_name, own_activation
from kerastools._core.graph.calls import read_graph
from kerastools._core.graph.flow import flow_of
from kerastools._core.graph.kinds import is_kind
from kerastools._core.keras_private.optimizer_hooks import learning_rate_source
from kerastools.diagnosis._layer_signal import summarise
from kerastools.diagnosis._probe.losses import loss_name
from kerastools.diagnosis._probe.signals import LayerRecord, measure
from kerastools.diagnosis._probe.trial_steps import Stepper, Steps
from kerastools.diagnosis._rules import Evidence, Output
from kerastools.diagnosis._subject import Subject

_NAME = "diagnose"
# Batches that the optimizer's first steps are taken on, in turn.
_NUM_BATCHES = 5


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
            x=tuple(graph.by_input(subject.x)),
            input_names=tuple(layer.name for layer in graph.input_layers),
            steps=_steps(stepper) if stepper else None,
            has_schedule=not isinstance(source, keras.Variable),
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
    picks = [np.unique(np.linspace(0, rows - 1, size).astype(int))]
    picks += [rng.choice(rows, size, replace=False) for _ in range(num - 1)]

    def taken(pick: np.ndarray) -> tuple[Any, Any]:
        y = tree.map_structure(lambda a: ops.convert_to_tensor(a[pick]), subject.y)
        return tree.map_structure(lambda a: a[pick], subject.x), y

    return [taken(pick) for pick in picks]


def _outputs(subject: Subject, records: Sequence[LayerRecord]) -> tuple[Output, ...]:
    """Returns each output with its loss and targets; none where a model returns its input."""
    found = {r.returned: r for r in records if r.returned is not None}
    targets = subject.loss.by_output(subject.y)
    outputs = []
    for place, (loss, y) in enumerate(zip(subject.loss.parts, targets, strict=True)):
        record = found.get(place)
        if loss is None or record is None:
            continue
        if is_kind(record.layer, "dropout"):
            record = _before(record, records)
        config = loss.get_config() if isinstance(loss, keras.losses.Loss) else {}
        outputs.append(
            Output(
                layer=record.path,
                activation=activation_name(own_activation(record.layer)),
                loss_name=loss_name(loss),
                from_logits=bool(config.get("from_logits", False)),
                values=np.atleast_2d(record.output),
                targets=np.asarray(y),
            )
        )
    return tuple(outputs)


def _before(dropout: LayerRecord, records: Sequence[LayerRecord]) -> LayerRecord:
    """Returns the record whose output went into a dropout."""
    entering, earlier = dropout.entering, records[: list(records).index(dropout)]
    same = (r for r in reversed(earlier) if r.output.shape == dropout.output.shape)
    return next(
        (r for r in same if entering is not None and np.array_equal(r.output, entering)), dropout
    )
