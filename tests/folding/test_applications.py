"""Architectures that people use: every batch norm that has a linear layer before it goes."""

import keras
import numpy as np
import pytest

from kerastools.folding import fold_batch_norm
from tests.folding.networks import outputs, randomise, sample

pytestmark = pytest.mark.tensorflow  # the same graphs; JAX would compile for minutes


def build(name, **options):
    """In float64, so that any mistake stands out from rounding."""
    keras.config.set_dtype_policy("float64")
    return tamed(getattr(keras.applications, name)(weights=None, **options))


def check(model, num_folded, num_kept):
    folded, report = fold_batch_norm(model, return_report=True)
    assert (report.num_folded, report.num_kept) == (num_folded, num_kept)
    x = sample(model, rows=1)
    for want, got in zip(outputs(model, x), outputs(folded, x), strict=True):
        assert np.abs(want).max() > 1e-9
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


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
    top = {"classes": 10, "classifier_activation": None}
    check(build("MobileNetV2", input_shape=(64, 64, 3), alpha=0.35, **top), 52, 0)


def narrow(monkeypatch):
    """Convolutions get an eighth of their filters: the same graphs, whose numbers cost little."""
    for kind in (keras.layers.Conv2D, keras.layers.SeparableConv2D):

        def narrower(self, filters, *args, make=kind.__init__, **kwargs):
            make(self, max(filters // 8, 1), *args, **kwargs)

        monkeypatch.setattr(kind, "__init__", narrower)

    def reshape(self, shape, make=keras.layers.Reshape.__init__, **kwargs):
        # Squeeze and excitation: (1, 1, channels).
        make(self, (*shape[:-1], -1), **kwargs)

    monkeypatch.setattr(keras.layers.Reshape, "__init__", reshape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_folded", "num_kept"),
    [
        ("ResNet50", 53, 0),
        ("ResNet101", 104, 0),
        ("ResNet50V2", 32, 17),
        ("ResNet101V2", 66, 34),
        ("DenseNet121", 59, 62),
        ("EfficientNetB0", 49, 0),
        ("EfficientNetB1", 69, 0),
        ("EfficientNetB3", 78, 0),
        ("EfficientNetV2B0", 59, 0),
        ("EfficientNetV2B1", 73, 0),
        ("InceptionV3", 94, 0),
        ("Xception", 40, 0),
    ],
)
def test_larger_architectures(name, num_folded, num_kept, monkeypatch):
    """Several of each family; benchmarks/folding_census.py has all, and at their full width."""
    narrow(monkeypatch)
    model = build(name, input_shape=(80, 80, 3), include_top=False)
    monkeypatch.undo()
    check(model, num_folded, num_kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_folded", "options"),
    [
        ("MobileNet", 27, {"alpha": 0.25}),
        ("MobileNetV3Small", 34, {}),
        ("MobileNetV3Large", 46, {}),
        ("NASNetMobile", 192, {}),
    ],
)
def test_architectures_that_are_small_or_count_their_channels(name, num_folded, options):
    check(build(name, input_shape=(64, 64, 3), include_top=False, **options), num_folded, 0)
