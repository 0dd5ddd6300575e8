"""What the catalogue says of a layer is what the layer does."""

import keras
import numpy as np
import pytest

from kerastools._core.graph import kinds
from kerastools._core.graph.kinds import KINDS, UNKNOWN, is_kind, kind, kind_of

UNDESCRIBED = {"TernaryDense"}  # New in Keras 3.16; treated as unknown.
CLASSES = {
    cls: name
    for name in sorted(dir(keras.layers))
    if isinstance(cls := getattr(keras.layers, name), type)
    and issubclass(cls, keras.Layer)
    and cls is not keras.Layer
    and name not in UNDESCRIBED
}


@pytest.mark.parametrize("cls", CLASSES, ids=CLASSES.values())
def test_every_layer_of_keras_has_a_kind(cls):
    assert kinds._kind_of_class(cls).name != "unknown"


def test_table_names_no_class_twice():
    names = [name for _, row in kinds._TABLE for name in row.split()]
    assert len(names) == len(set(names))
    assert len(KINDS) == len(kinds._TABLE)


def test_classes_that_the_installed_keras_lacks_do_no_harm():
    names = {name for _, row in kinds._TABLE for name in row.split()}
    assert names <= set(dir(keras.layers))


def example(cls):
    """Returns a built layer of the class and inputs for it, with places (4, 6) and 2 channels."""
    name = cls.__name__
    rank = next((n for n in (1, 2, 3) if f"{n}D" in name), 1)
    x = np.random.default_rng(0).normal(size=(3, *(4, 6, 5)[:rank], 2)).astype("float32")
    special = {
        "Activation": {"activation": "tanh"},
        "AveragePooling1D": {"pool_size": 2},
        "AveragePooling2D": {"pool_size": 2},
        "AveragePooling3D": {"pool_size": 2},
        "Dot": {"axes": -1},
        "GroupNormalization": {"groups": 2},
        "Reshape": {"target_shape": (2, 4)},
        "Permute": {"dims": (2, 1)},
        "RepeatVector": {"n": 3},
        "Rescaling": {"scale": 2.0, "offset": 1.0},
        "Dense": {"units": 3},
        "EinsumDense": {"equation": "abc,cd->abd", "output_shape": (None, 3)},
        "Normalization": {"mean": [1.0, 2.0], "variance": [3.0, 4.0]},
        "Concatenate": {"axis": -1},
        "ActivityRegularization": {"l2": 0.1},
    }
    config = dict(special.get(name, {}))
    found = kind_of(cls(**config)) if name in special else kinds._kind_of_class(cls)
    if found.group == "kernel" and not config:
        config = {"kernel_size": 3, "padding": "same"}
        config |= {} if name.startswith("Depthwise") else {"filters": 3}
    if found.name.startswith("adaptive"):
        config = {"output_size": 2}
    if found.group in ("dropout", "noise"):
        config = {"stddev": 0.3} if found.group == "noise" else {"rate": 0.3}
    if name == "RepeatVector":
        x = x[:, 0]
    layer = cls(**config)
    inputs = [x, x[::-1] + 1] if found.group == "merge" else [x]
    layer(inputs if len(inputs) > 1 else x)
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        if weight.dtype == "float32":
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return layer, inputs


def run(layer, inputs, training=False):
    arguments = {"training": training} if "training" in layer._call_signature.parameters else {}
    return keras.ops.convert_to_numpy(
        layer(inputs if len(inputs) > 1 else inputs[0], **arguments)
    ).astype("float64")


def with_property(name):
    return [
        pytest.param(cls, id=shown)
        for cls, shown in CLASSES.items()
        if getattr(kinds._kind_of_class(cls), name) and kinds._kind_of_class(cls).group in PROBED
    ]


# Groups whose layers take floating numbers and work alone.
PROBED = {group for kind in KINDS.values() if (group := kind.group)} - {
    "input",
    "look_up",
    "wrapper",
    "composite",
    "unknown",
    "recurrent",
    "cell",
}


@pytest.mark.parametrize("cls", with_property("linear"))
def test_linear_layers_are_additive(cls):
    layer, inputs = example(cls)
    other = [np.cos(i, dtype="float32") for i in inputs]
    zero = [0 * i for i in inputs]
    both = [a + b for a, b in zip(inputs, other, strict=True)]
    expected = run(layer, inputs) + run(layer, other) - run(layer, zero)
    np.testing.assert_allclose(run(layer, both), expected, atol=1e-4)


def reached(layer, inputs, place):
    """Returns where outputs change with the value at `place` of the first input."""
    moved = [inputs[0].copy(), *inputs[1:]]
    moved[0][place] += 10.0
    return run(layer, moved) != run(layer, inputs)


@pytest.mark.parametrize("cls", with_property("elementwise"))
def test_elementwise_layers_reach_the_same_place_only(cls):
    layer, inputs = example(cls)
    place = (1,) + (2,) * (inputs[0].ndim - 2) + (1,)
    changed = reached(layer, inputs, place)
    assert changed.shape == inputs[0].shape
    changed[place] = False
    assert not changed.any()


@pytest.mark.parametrize("cls", with_property("per_channel"))
def test_per_channel_layers_keep_channels_apart(cls):
    layer, inputs = example(cls)
    changed = reached(layer, inputs, (1,) + (2,) * (inputs[0].ndim - 2) + (1,))
    assert not changed[..., 0].any()


@pytest.mark.parametrize("cls", with_property("identity_in_inference"))
def test_identities_return_their_input_in_inference(cls):
    layer, inputs = example(cls)
    np.testing.assert_array_equal(run(layer, inputs), inputs[0].astype("float64"))
    assert not layer.losses


PLAIN = [c for c in CLASSES if kinds._kind_of_class(c).group in PROBED - {"preprocessing"}]


@pytest.mark.parametrize("cls", PLAIN, ids=[CLASSES[c] for c in PLAIN])
def test_layers_draw_and_keep_state_if_their_kind_says_so(cls):
    layer, inputs = example(cls)
    before = [keras.ops.convert_to_numpy(v) for v in layer.weights]
    first, second = run(layer, inputs, training=True), run(layer, inputs, training=True)
    after = [keras.ops.convert_to_numpy(v) for v in layer.weights]
    assert (not np.array_equal(first, second)) == kind_of(layer).random
    changed = any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert changed == kind_of(layer).stateful


def test_subclass_that_changes_nothing_is_of_its_parents_kind():
    class Wide(keras.layers.Dense):
        """A layer."""

        factor: int

        def __init__(self, **kwargs):
            super().__init__(1000, **kwargs)
            self.factor = 2

        def get_config(self):
            return {"name": self.name}

    assert kind_of(Wide()).name == "dense"


@pytest.mark.parametrize("method", ["call", "build", "compute_mask", "__call__"])
def test_subclass_that_overrides_a_method_is_unknown(method):
    cls = type("Own", (keras.layers.Dropout,), {method: lambda self, *args, **kwargs: None})
    assert kind_of(cls(0.5)) is UNKNOWN


def test_mixin_that_overrides_call_makes_a_layer_unknown():
    class Loud:
        def call(self, inputs):
            return 2 * inputs

    class Own(Loud, keras.layers.Dense):
        pass

    assert kind_of(Own(2)) is UNKNOWN


def test_replaced_call_makes_a_layer_unknown():
    layer = keras.layers.Dropout(0.5)
    layer.call = lambda inputs, training=False: inputs + 1
    assert kind_of(layer) is UNKNOWN


def test_unknown_layers_are_taken_as_random_and_stateful():
    class Own(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    found = kind_of(Own())
    assert (found.random, found.stateful) == (True, True)
    assert not any((found.linear, found.elementwise, found.identity_in_inference))


def test_classes_declare_their_kind():
    @kind("dropout", random=False)
    class Own(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    class Named(Own):
        def __init__(self):
            super().__init__(name="own")

    class Changed(Own):
        def call(self, inputs):
            return 2 * inputs

    assert is_kind(Own(), "dropout")
    assert kind_of(Own()).identity_in_inference
    assert not kind_of(Own()).random
    assert is_kind(Named(), "dropout")
    assert kind_of(Changed()) is UNKNOWN


def test_unknown_kinds_and_properties_cannot_be_declared():
    with pytest.raises(ValueError, match="one of"):
        kind("drop_out")
    with pytest.raises(TypeError, match="randomly"):
        kind("dropout", randomly=True)


def test_wrapper_is_not_what_its_name_says():
    assert not is_kind(keras.layers.SpectralNormalization(keras.layers.Dense(2)), "normalization")


def test_cells_of_recurrent_layers_are_known():
    gates = [
        kind_of(layer.cell).gates
        for layer in (
            keras.layers.SimpleRNN(2),
            keras.layers.GRU(2),
            keras.layers.LSTM(2),
            keras.layers.ConvLSTM2D(2, 3),
        )
    ]
    assert gates == [1, 3, 4, 4]


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "softmax", "hard_sigmoid", "leaky_relu"])
def test_activation_operations_are_known(name):
    inputs = keras.Input((4,))
    graph = keras.Function(inputs, getattr(keras.ops, name)(inputs))
    assert [kind_of(o).activation for o in graph.operations if kind_of(o) is not UNKNOWN][
        -1
    ] == name
