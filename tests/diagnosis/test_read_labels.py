"""Targets in another form than their loss takes are told, read as they are meant, and mended."""

import keras
import numpy as np
import pytest
from keras import layers

from kerastools.diagnosis import diagnose
from kerastools.diagnosis._probe.losses import resolve_loss
from kerastools.diagnosis._read_labels import read_labels

Y = np.arange(60) % 5
SPARSE, CATEGORICAL, BINARY = (
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
)
LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def net(units, name="output"):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(units, name=name)(inputs))


def read(y, loss, units=5):
    model = net(units)
    return read_labels(model, y, resolve_loss(model, loss, "test"))


# What arrives: (targets, loss, units, the targets and the loss that are meant).
READINGS = {
    "one-hot": (np.eye(5)[Y], SPARSE, 5, np.eye(5)[Y], CATEGORICAL),
    "one-hot, logits": (np.eye(5)[Y], LOGITS, 5, np.eye(5)[Y], CATEGORICAL),
    "numbers": (Y, CATEGORICAL, 5, Y, SPARSE),
    "column of numbers": (Y[:, None], CATEGORICAL, 5, Y, SPARSE),
    "from 1": (Y + 1, SPARSE, 5, Y, SPARSE),
    "from 1 as floats": (Y + 1.0, SPARSE, 5, Y, SPARSE),
    "codes": (Y**2 - 7, SPARSE, 5, Y, SPARSE),
    "-1 and 1": (2 * (Y % 2) - 1, BINARY, 1, Y % 2, BINARY),
    "0 and 255": (255 * (Y[:, None] % 2), BINARY, 1, Y[:, None] % 2, BINARY),
}


@pytest.mark.parametrize("name", READINGS)
def test_the_only_reading_is_taken(name):
    y, loss, units, y_meant, loss_meant = READINGS[name]
    read_y, read_loss, (reading,) = read(y, loss, units)
    np.testing.assert_array_equal(read_y, y_meant)
    (part,) = read_loss.parts
    assert getattr(part, "name", None) == loss_meant or part.__name__ == loss_meant
    if loss is LOGITS:
        assert part.get_config()["from_logits"]
    assert reading.layer == "output"


# As it should be, or of no reading, or of several.
LEFT = {
    "numbers": (Y, SPARSE, 5),
    "one-hot": (np.eye(5)[Y], CATEGORICAL, 5),
    "soft": (np.full((60, 5), 0.2), CATEGORICAL, 5),
    "soft for numbers": (np.full((60, 5), 0.2), SPARSE, 5),
    "fewer classes": (Y % 4 + 2, SPARSE, 5),
    "halves": (Y + 0.5, SPARSE, 5),
    "probabilities": (Y / 4, BINARY, 1),
    "three values": (Y % 3 - 1, BINARY, 1),
    "regression": (Y + 1.0, "mse", 1),
    "of one's own": (np.eye(5)[Y], lambda y, p: keras.ops.mean(p), 5),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_fits_or_has_no_single_reading_is_left(name):
    y, loss, units = LEFT[name]
    read_y, _, readings = read(y, loss, units)
    assert read_y is y
    assert readings == ()


def test_outputs_are_read_one_by_one():
    one, two = net(5, "one"), net(1, "two")
    model = keras.Model([one.input, two.input], {"a": one.output, "b": two.output})
    y = {"b": 2 * (Y % 2) - 1, "a": Y}
    loss = resolve_loss(model, {"a": SPARSE, "b": BINARY}, "test")
    read_y, _, (reading,) = read_labels(model, y, loss)
    assert reading.layer == "two"
    np.testing.assert_array_equal(read_y["a"], Y)
    np.testing.assert_array_equal(read_y["b"], Y % 2)
    assert read_labels(model, {"a": Y}, loss)[2] == ()


@pytest.mark.tensorflow  # What the rule reads is tested on both.
def test_the_repair_brings_the_loss_and_the_targets_to_train_with():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(256, 8)).astype("float32")
    y = (x @ rng.normal(size=(8, 3))).argmax(axis=1)
    keras.utils.set_random_seed(1)
    stack = [keras.Input((8,)), layers.Dense(16, "relu")]
    model = keras.Sequential([*stack, layers.Dense(3, "softmax", name="output")])
    for targets, loss in [(np.eye(3)[y], SPARSE), (10 * y + 1, SPARSE)]:
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        diagnosis = diagnose(model, x, targets)
        (finding,) = diagnosis.findings
        assert (finding.rule, finding.layer) == ("labels", "output")
        repair = diagnosis.repair()
        assert repair.verified, str(repair)
        assert [change.rule for change in repair.changes] == ["labels"]
        history = repair.model.fit(x, repair.y, epochs=20, verbose=0).history
        assert history["accuracy"][-1] > 0.9
