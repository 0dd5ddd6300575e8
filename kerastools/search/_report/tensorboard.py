"""Export of trials to TensorBoard's HParams tab."""

import os
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def write_hparams(report: Any, directory: Any) -> None:
    """Writes one TensorBoard run per finished trial."""
    names = {scale.asked: scale.name for scale in report.scales}
    space = {scale.asked: hparams.HParam(scale.name) for scale in report.scales}
    metric = hparams.Metric(report.objective)
    config = hparams.hparams_config_pb(hparams=list(space.values()), metrics=[metric])
    _write(directory, 0, config)
    for trial in report.ranked():
        run = os.path.join(directory, f"trial_{trial.trial}")
        # As displayed, so that γ and β can be read and filtered.
        values = {names[n]: v for n, v in trial.values.items() if n in names}
        values |= report.shown(trial)
        session = hparams.hparams_pb(values, trial_id=trial.trial)
        score = Summary.Value(tag=report.objective, simple_value=trial.score)
        _write(run, trial.epoch or 0, session, Summary(value=[score]))


def _write(directory: Any, step: int, *summaries: Any) -> None:
    writer = EventFileWriter(os.fspath(directory))
    for summary in summaries:
        event = Event(step=step)
        event.summary.ParseFromString(summary.SerializeToString())
        writer.add_event(event)
    writer.close()
