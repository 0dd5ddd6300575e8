"""Architectures that people use: every batch norm that has a linear layer before it goes."""

import keras
import numpy as np
import pytest

from kerastools.folding import fold_batch_norm
from tests.folding.networks import outputs, randomise, sample

pytestmark = pytest.mark.tensorflow  # the same graphs; JAX would compile for minutes


def check(model, num_folded, num_kept, tolerance):
    folded, report = fold_batch_norm(tamed(model), return_report=True)
    assert (report.num_folded, report.num_kept) == (num_folded, num_kept)
    x = sample(model, rows=1)
    for want, got in zip(outputs(model, x), outputs(folded, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def tamed(model):
    """Random statistics, and scales near ±1 so that deep networks neither fade nor explode."""
    rng = np.random.default_rng(0)
    for layer in randomise(model).layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(scale=0.1, size=shape))
            layer.moving_variance.assign(rng.uniform(0.5, 1.5, shape))
            if layer.scale:
                layer.gamma.assign(rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape))
    return model


def test_mobilenet_v2():
    model = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, weights=None, classes=10)
    check(model, 52, 0, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_folded", "num_kept"),
    [
        ("ResNet50", 53, 0),
        ("ResNet50V2", 32, 17),
        ("DenseNet121", 59, 62),
        ("EfficientNetB0", 49, 0),
        ("EfficientNetV2B0", 59, 0),
        ("MobileNetV3Small", 34, 0),
        ("InceptionV3", 94, 0),
        ("Xception", 40, 0),
        ("NASNetMobile", 192, 0),
    ],
)
def test_larger_architectures(name, num_folded, num_kept):
    size = 224 if name == "NASNetMobile" else 96
    model = getattr(keras.applications, name)(
        input_shape=(size, size, 3), weights=None, include_top=False
    )
    check(model, num_folded, num_kept, 1e-3)
