"""The schedules of the literature: which layers train, in which order, and how fast."""

import keras
import numpy as np
import pytest

from kerastools.transfer import (
    discriminative,
    gradual,
    layer_groups,
    linear_probe_then_fine_tune,
    surgical,
)


def flat(names="abcdefgh"):
    layers = []
    for name in names[:-1]:
        layers.append(keras.layers.Dense(4, "tanh", name=name))
        layers.append(keras.layers.BatchNormalization(name=f"{name}_norm"))
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2, name=names[-1])])


def nested():
    trunk = keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(4, name=n) for n in "abc")], name="trunk"
    )
    head = [keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2, name="classes")]
    return keras.Sequential([keras.Input((4,)), trunk, *head])


def test_groups_hold_each_layer_once_with_its_normalisation():
    groups = layer_groups(flat(), num_groups=3)
    assert groups[0] == ["h"]
    assert groups[-1] == ["a", "a_norm", "b", "b_norm"]
    assert sorted(path for group in groups for path in group) == sorted(
        [*"abcdefgh", *(f"{n}_norm" for n in "abcdefg")]
    )
    assert [len(group) // 2 for group in groups[1:]] == [2, 3, 2]


def test_wrapped_kernels_are_units_and_every_normalisation_goes_with_the_layer_below():
    layers = [
        keras.layers.SpectralNormalization(keras.layers.Dense(4, name="a"), name="wrapped"),
        keras.layers.RMSNormalization(name="a_norm"),
        keras.layers.SpectralNormalization(keras.layers.Dense(4, name="b"), name="wrapped_b"),
        keras.layers.Dense(2, name="c"),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    expected = [["c"], ["wrapped_b/b"], ["wrapped/a", "a_norm"]]
    assert layer_groups(model, num_groups=2) == expected


def test_the_head_is_what_stands_above_the_nested_trunk_or_what_is_named():
    assert layer_groups(nested(), 3) == [
        ["hidden", "classes"],
        ["trunk/c"],
        ["trunk/b"],
        ["trunk/a"],
    ]
    assert layer_groups(nested(), 1, head="classes")[0] == ["classes"]


def test_gradual_unfreezes_from_the_top_down():
    model = nested()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    schedule = gradual(model, num_groups=3, epochs=2)
    x, y = np.ones((4, 4), "float32"), np.zeros((4, 2), "float32")
    model.fit(x, y, epochs=8, callbacks=[schedule], verbose=0)
    above = ["trunk/a", "trunk/b", "trunk/c", "hidden", "classes"]
    assert [(t.epoch, list(t.trained)) for t in schedule.history] == [
        (0, above[3:]),
        (2, above[2:]),
        (4, above[1:]),
        (6, above),
    ]


def test_linear_probe_then_fine_tune():
    phases = linear_probe_then_fine_tune(nested(), epochs=3, lr_multiplier=0.2).phases
    assert [(p.layers, p.epochs, p.lr_multiplier) for p in phases] == [
        (["hidden", "classes"], 3, 1.0),
        ("all", None, 0.2),
    ]


@pytest.mark.parametrize(
    ("block", "layers"),
    [("first", ["trunk/a"]), ("middle", ["trunk/b"]), ("last", ["hidden", "classes"])],
)
def test_surgical(block, layers):
    assert surgical(nested(), block, num_groups=3).phases[0].layers == layers


def test_discriminative_decays_per_group():
    (phase,) = discriminative(nested(), 0.5, num_groups=3).phases
    assert phase.layer_decay == 0.5
    assert phase.layers == layer_groups(nested(), 3)


@pytest.mark.parametrize("build", [gradual, surgical, discriminative, layer_groups])
def test_wrong_arguments_are_refused(build):
    with pytest.raises(ValueError, match=f"{build.__name__} needs num_groups between 1 and.* 3"):
        build(nested(), num_groups=4)
    with pytest.raises(ValueError, match=f"{build.__name__} found no layer for 'nothing'"):
        build(nested(), num_groups=2, head="nothing")
    with pytest.raises(ValueError, match=f"{build.__name__} needs a built model"):
        build(keras.Sequential([keras.layers.Dense(1)]))


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match="'first', 'middle', 'last'"):
        surgical(nested(), "second", num_groups=2)
