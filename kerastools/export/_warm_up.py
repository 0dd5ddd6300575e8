"""Requests that TensorFlow Serving makes to a model when it loads it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerastools.export._latency import rows


def write_warm_up(
    directory: Path, model_name: str, inputs: dict[str, Any], batch_sizes: Sequence[int]
) -> None:
    """Writes a request per batch size, of the rows of `inputs` in turn, next to a SavedModel."""
    import tensorflow as tf

    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in batch_sizes:
            batch = {name: rows(np.asarray(x), size) for name, x in inputs.items()}
            writer.write(_prediction_log(model_name, batch))


def _prediction_log(model_name: str, inputs: dict[str, np.ndarray]) -> bytes:
    """Returns a serialized `tensorflow.serving.PredictionLog` that holds one `PredictRequest`.

    Written by hand, in the wire format of protocol buffers, because the package that has the
    messages brings a whole RPC library along; the numbers are those of prediction_log.proto,
    predict.proto and model.proto of TensorFlow Serving.
    """
    import tensorflow as tf

    model_spec = _field(1, model_name.encode()) + _field(3, b"serving_default")
    request = _field(1, model_spec)
    for name, array in inputs.items():
        tensor = tf.make_tensor_proto(array).SerializeToString()
        request += _field(2, _field(1, name.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number: int, payload: bytes) -> bytes:
    """Returns one length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
