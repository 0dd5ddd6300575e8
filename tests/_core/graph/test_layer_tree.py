"""Layers at every depth: found by name, frozen and unfrozen."""

import keras
import pytest

from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.layer_tree import LayerTree


class Block(keras.layers.Layer):
    """A layer with layers and a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3, name="dense")
        self.norm = keras.layers.BatchNormalization(name="norm")

    def build(self, input_shape):
        self.scale = self.add_weight((3,), name="scale")
        self.dense.build(input_shape)
        self.norm.build((None, 3))

    def call(self, x):
        return self.norm(self.dense(x)) * self.scale


def make_model():
    trunk = keras.Sequential(
        [keras.Input((3,)), Block(name="block"), keras.layers.Dense(3, name="dense")], name="trunk"
    )
    return keras.Sequential([keras.Input((3,)), trunk, keras.layers.Dense(1, name="head")])


def trained(model):
    return {v.path for v in model.trainable_variables}


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("trunk/block/dense", ["trunk/block/dense"]),
        ("dense", ["trunk/block/dense", "trunk/dense"]),
        ("head", ["head"]),
        ("h*", ["head"]),
        ("trunk/[bd]*", ["trunk/block", "trunk/block/dense", "trunk/block/norm", "trunk/dense"]),
        ("norm|head", ["trunk/block/norm", "head"]),
        (r"trunk/[a-z]+", ["trunk/block", "trunk/dense"]),
    ],
)
def test_layers_are_found(text, paths):
    model = make_model()
    tree = LayerTree(model)
    by_path = dict(tree.paths)
    assert [id(layer) for layer in tree.select(text, "test")] == [id(by_path[p]) for p in paths]


def test_exactly_the_chosen_weights_train():
    model = make_model()
    tree = LayerTree(model)
    tree.state_training(tree.select("trunk/block/dense", "test")).set()
    assert sorted(p[-17:] for p in trained(model)) == ["/block/dense/bias", "lock/dense/kernel"]
    # The block's own weight does not train, though the block holds something that does.
    block = model.get_layer("trunk").get_layer("block")
    assert block.trainable
    assert not block.scale.trainable
    tree.state_training(tree.select("block", "test")).set()
    assert len(trained(model)) == 5
    assert not block.norm.moving_mean.trainable


@pytest.mark.parametrize("names", ["all", "head", "block", "trunk/dense"])
def test_reading_changes_nothing_and_finds_the_same_whatever_is_frozen(names):
    model = make_model()
    every = LayerTree(model).weights_of(sublayers(model))
    assert len(every) == 9
    tree = LayerTree(model)
    tree.state_training(tree.select(names, "test")).set()
    before = tree.current_state()
    again = LayerTree(model)
    assert not before.set(), "Reading the model has changed a flag."
    assert [id(v) for v in again.weights_of(sublayers(model))] == [id(v) for v in every]
