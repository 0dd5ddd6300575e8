import keras
from keras import layers

from kerastools._core.graph.flow import flow_of, walk


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


def test_a_mask_that_is_computed_from_the_inputs_is_no_way_of_the_signal():
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(5, 3, mask_zero=True, name="embedding"),
            layers.LSTM(2, name="lstm"),
            layers.Dense(2, name="head"),
        ]
    )
    flow = flow_of(model, "test")
    assert (flow.first, flow.last) == ({"embedding"}, {"head"})


def test_an_activation_behind_the_border_of_a_nested_model_follows_the_kernel_in_it():
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, layers.Dense(4, name="dense")(inner_in), name="inner")
    x = keras.Input((4,))
    relu = layers.ReLU()
    (placed,) = walk(keras.Model(x, relu(inner(x))), "test")
    assert (placed.path, placed.activation) == ("inner/dense", relu)
