"""Programs that are not TensorFlow read what was exported and compute the same."""

import keras
import numpy as np
import pytest
from google.protobuf import text_format
from keras import layers

from kerastools.export import export_savedmodel

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network of what runtimes fuse differently, exported; with an input and its output."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, use_bias=False, activation="relu")(inputs)
    x = y = layers.BatchNormalization()(x)
    for layer in (layers.DepthwiseConv2D(3, padding="same"), layers.Conv2D(8, 1)):
        y = layers.Activation("silu")(layers.BatchNormalization()(layer(y)))
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    model = keras.Model(inputs, layers.Dense(5, activation="softmax", name="class")(x))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(rng.uniform(-2, 2, layer.gamma.shape))
            layer.moving_variance.assign(rng.uniform(0.05, 2, layer.gamma.shape))
    path = tmp_path_factory.mktemp("readers")
    report = export_savedmodel(model, path)
    x = rng.normal(size=(4, 10, 10, 3)).astype("float32")
    return report, x, keras.ops.convert_to_numpy(model(x, training=False))


def test_openvino_in_float32(exported):
    openvino = pytest.importorskip("openvino", reason="install the extra: kerastools[readers]")
    report, x, want = exported
    model = openvino.convert_model(report.path)
    (output,) = (port.any_name for port in model.outputs)
    assert output == "class"
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    got = compiled({"image": x})["class"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_litert_through_the_converter(exported):
    litert = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="install the extra: kerastools[readers]"
    )
    import tensorflow as tf

    report, x, want = exported
    converted = tf.lite.TFLiteConverter.from_saved_model(report.path).convert()
    runner = litert.Interpreter(model_content=converted).get_signature_runner("serving_default")
    np.testing.assert_allclose(runner(image=x)["class"], want, rtol=0, atol=1e-6)


def test_tensorflow_serving_parses_the_line_for_models_config(exported):
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    report, _, _ = exported
    text = f"model_config_list {{ {report.serving_config} }}"
    (entry,) = text_format.Parse(text, config.ModelServerConfig()).model_config_list.config
    assert f"{entry.base_path}/1" == report.path
    assert entry.model_platform == "tensorflow"
