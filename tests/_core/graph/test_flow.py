import keras
from keras import layers

from kerastools._core.graph.flow import flow_of


def test_first_last_and_normalised_kernels_are_told_by_their_paths():
    a, b = keras.Input((4,)), keras.Input((4,))
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dropout(0.1), layers.Dense(4, name="in"), layers.ReLU()],
        name="inner",
    )
    x = layers.Dense(4, name="one")(inner(layers.Rescaling(2.0)(a)))
    x = layers.BatchNormalization(name="norm")(layers.ReLU()(x))
    y = layers.Dense(4, name="two")(b)
    joined = layers.Dense(4, name="three")(layers.Add()([x, y]))
    head = layers.Dropout(0.2, name="late")(layers.Dense(2, name="head")(joined))
    flow = flow_of(keras.Model([a, b], [head, joined]), "test")
    assert flow.first == {"inner/in", "two"}
    assert flow.last == {"head", "three"}
    assert flow.normalised == {"one"}
    assert flow.after_last == {"late"}
