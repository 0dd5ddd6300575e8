"""The requests are read back by protocol buffers' own library and served."""

import keras
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from keras import layers

from kerastools.export import export_savedmodel

pytestmark = pytest.mark.tensorflow

# The messages as prediction_log.proto, predict.proto and model.proto of TensorFlow Serving define
# them, as far as a request to predict needs them. Type 9 is a string, 11 a message, 12 bytes.
MESSAGES = {
    "ModelSpec": [("name", 1, 9, None), ("signature_name", 3, 9, None)],
    "Entry": [("key", 1, 9, None), ("value", 2, 12, None)],
    "PredictRequest": [("model_spec", 1, 11, "ModelSpec"), ("inputs", 2, 11, "Entry")],
    "PredictLog": [("request", 1, 11, "PredictRequest")],
    "PredictionLog": [("predict_log", 6, 11, "PredictLog")],
}


def prediction_log():
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            label = 3 if field == "inputs" else 1
            added = message.field.add(name=field, number=number, type=kind, label=label)
            if of:
                added.type_name = f".t.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.PredictionLog"))


def records(directory):
    import tensorflow as tf

    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    return [r.numpy() for r in tf.data.TFRecordDataset(str(path))]


def model():
    a, b = keras.Input((200,), name="a"), keras.Input((2,), name="b", dtype="int32")
    x = layers.Concatenate()([a, keras.ops.cast(b, "float32")])
    return keras.Model([a, b], layers.Dense(3, name="y")(x))


def test_each_batch_size_is_a_request_that_the_model_serves(tmp_path):
    import tensorflow as tf

    sample = [np.arange(400.0).reshape(2, 200), np.array([[1, 2], [3, 4]])]
    export_savedmodel(model(), tmp_path / "net", sample=sample, warm_up=(1, 5))
    serve = tf.saved_model.load(str(tmp_path / "net" / "1")).signatures["serving_default"]
    sizes = []
    for record in records(tmp_path / "net" / "1"):
        request = prediction_log().FromString(record).predict_log.request
        assert request.model_spec.name == "net"
        assert request.model_spec.signature_name == "serving_default"
        inputs = {
            entry.key: tf.make_ndarray(type(tf.make_tensor_proto(0)).FromString(entry.value))
            for entry in request.inputs
        }
        sizes.append(len(inputs["a"]))
        np.testing.assert_array_equal(inputs["b"], sample[1][np.arange(sizes[-1]) % 2])
        assert inputs["a"].dtype == "float32"
        assert serve(**{name: tf.constant(x) for name, x in inputs.items()})["y"].shape[1] == 3
    assert sizes == [1, 5]


def test_the_real_messages_of_tensorflow_serving_parse_it(tmp_path):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    export_savedmodel(model(), tmp_path / "net", warm_up=(4,))
    (record,) = records(tmp_path / "net" / "1")
    request = logs.PredictionLog.FromString(record).predict_log.request
    assert sorted(request.inputs) == ["a", "b"]
    assert request.inputs["a"].tensor_shape.dim[0].size == 4


def test_none_are_written_unless_asked(tmp_path):
    export_savedmodel(model(), tmp_path)
    assert not (tmp_path / "1" / "assets.extra").exists()


def test_serving_config_names_the_directory_of_versions(tmp_path):
    report = export_savedmodel(model(), tmp_path / "net")
    assert report.serving_config == (
        f'config {{ name: "net" base_path: "{tmp_path / "net"}" model_platform: "tensorflow" }}'
    )


@pytest.mark.parametrize("sizes", [(0,), (1, 2.5), (True,)])
def test_batch_sizes_must_be_numbers_of_rows(tmp_path, sizes):
    with pytest.raises(ValueError, match="integers of 1 or more"):
        export_savedmodel(model(), tmp_path, warm_up=sizes)


def test_a_fixed_batch_is_the_only_one(tmp_path):
    fixed = keras.Sequential([keras.Input(batch_shape=(2, 3)), layers.Dense(1)])
    export_savedmodel(fixed, tmp_path, warm_up=(2,))
    with pytest.raises(ValueError, match="2, which the model fixes"):
        export_savedmodel(fixed, tmp_path, warm_up=(1,))
