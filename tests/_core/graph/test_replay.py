"""A replayed graph computes what the model does, whatever the model is made of."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools._core.graph.calls import Graph, as_recorded, calls, has_graph, replay
from kerastools._core.keras_private.graph_nodes import mask_of

# What Keras says of every nested model that is called on a masked tensor.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not support masking")

rng = np.random.default_rng(0)
TOKENS = np.array([[1, 2, 0, 0], [3, 1, 2, 0]])
ROWS = rng.normal(size=(4, 6)).astype("float32")
STEPS = rng.normal(size=(3, 4, 2)).astype("float32")


def masked_sequential():
    return keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(5, 3, mask_zero=True),
            layers.LSTM(2, return_sequences=True),
            layers.Bidirectional(layers.GRU(2)),
            layers.Dense(2),
        ]
    ), TOKENS


def mask_into_nested_model():
    inner = keras.Sequential([keras.Input((4, 3)), layers.LSTM(2), layers.Dense(2)], name="inner")
    x = keras.Input((4,), dtype="int32")
    return keras.Model(x, inner(layers.Embedding(5, 3, mask_zero=True)(x))), TOKENS


def mask_into_nested_model_of_other_dtype():
    halves = layers.Embedding(5, 3, mask_zero=True, dtype="float16")
    inner = keras.Sequential([keras.Input((4, 3)), layers.LSTM(2)], name="inner")
    x = keras.Input((4,), dtype="int32")
    return keras.Model(x, inner(halves(x))), TOKENS


def mask_out_of_nested_model():
    inner = keras.Sequential(
        [keras.Input((4,), dtype="int32"), layers.Embedding(5, 3, mask_zero=True)]
    )
    x = keras.Input((4,), dtype="int32")
    return keras.Model(x, layers.GlobalAveragePooling1D()(layers.Dense(2)(inner(x)))), TOKENS


def explicit_masks():
    x, mask = keras.Input((4, 2), name="x"), keras.Input((4,), dtype="bool", name="mask")
    attended = layers.MultiHeadAttention(2, 2)(x, x, key_mask=mask)
    y = layers.LSTM(2)(attended, mask=ops.logical_and(mask, ops.any(x > 0, axis=-1)))
    return keras.Model({"x": x, "mask": mask}, y), {"x": STEPS, "mask": STEPS[..., 0] > 0}


def inputs_and_outputs_in_structures():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    x = layers.Concatenate()([layers.Dense(2)(a), ops.tanh(b), b])
    return keras.Model([a, b], {"z": x, "b": b, "a": layers.Dense(1)(x)}), [ROWS, 2 * ROWS]


def dictionary_in_another_order():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    return keras.Model([b, a], [a - b, 2 * a]), {"a": ROWS, "b": 3 * ROWS}


def dictionary_of_one_output():
    x = keras.Input((6,))
    return keras.Model(x, {"only": layers.Dense(2)(x)}), ROWS


def shared_layers_and_models():
    dense, inner = layers.Dense(6), keras.Sequential([keras.Input((6,)), layers.Dense(6, "tanh")])
    middle_in = keras.Input((6,))
    middle = keras.Model(middle_in, [inner(inner(middle_in)), dense(middle_in)])
    x = keras.Input((6,))
    first, second = middle(dense(x))
    return keras.Model(x, layers.Add()([*middle(first), inner(second)])), ROWS


def functions_of_keras_ops():
    x = keras.Input((6,))
    parts = ops.split(ops.stack([x, x * 2, 1 - x], axis=1)[:, :2], 2, axis=-1)
    return keras.Model(x, ops.einsum("bij,bkj->bik", *parts) + ops.arange(2, dtype="float32")), ROWS


def rows_without_an_axis():
    return keras.Sequential([keras.Input((1,)), layers.Dense(2)]), ROWS[:, 0]


def sequential_called_on_data():
    model = keras.Sequential([layers.Dense(3), layers.BatchNormalization(), layers.Dense(1)])
    model(ROWS)
    return model, ROWS[:3]


MODELS = [
    masked_sequential,
    mask_into_nested_model,
    mask_into_nested_model_of_other_dtype,
    mask_out_of_nested_model,
    explicit_masks,
    inputs_and_outputs_in_structures,
    dictionary_in_another_order,
    dictionary_of_one_output,
    shared_layers_and_models,
    functions_of_keras_ops,
    rows_without_an_axis,
    sequential_called_on_data,
]


def assert_equal(got, want):
    keras.tree.assert_same_structure(got, want)
    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(want), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("enter", [True, False], ids=["entered", "outermost"])
def test_replay_equals_the_model(make, enter):
    model, x = make()
    assert_equal(replay(Graph(model), x, enter=enter), model(x))


@pytest.mark.parametrize("make", MODELS[:8], ids=lambda make: make.__name__)
def test_a_graph_replayed_on_symbolic_tensors_equals_the_model(make):
    model, x = make()
    graph = Graph(model)
    fresh = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in graph.inputs]
    fresh = keras.tree.pack_sequence_as(graph.input_structure, fresh)
    twin = keras.Model(fresh, replay(graph, fresh))
    assert not any(has_graph(call.operation) for call in Graph(twin).calls)
    assert_equal(twin(x), model(x))


def test_masks_are_those_of_the_model():
    (model, x), seen = mask_into_nested_model(), {}

    def keep(call, args, kwargs):
        seen[type(call.operation)] = mask_of(args[0])
        return as_recorded(call, args, kwargs)

    replay(Graph(model), x, keep)
    np.testing.assert_array_equal(ops.convert_to_numpy(seen[layers.LSTM]), TOKENS != 0)
    assert seen[layers.Embedding] is None


def test_a_mask_can_be_passed():
    inner = keras.Sequential([keras.Input((4, 2)), layers.LSTM(2)])
    mask = STEPS[..., 0] > 0
    assert_equal(replay(Graph(inner), STEPS, mask=mask), inner(STEPS, mask=mask))


def trained_differently():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.BatchNormalization(), layers.Dropout(0.5, seed=2)]
    )
    x = keras.Input((6,))
    # Last, as from Keras 3.16 on a call's own `training` decides for those after it as well.
    y = inner(layers.GaussianNoise(1.0, seed=1)(layers.Dense(6)(x)), training=False)
    return keras.Model(x, y)


@pytest.mark.parametrize("training", [True, False, None])
def test_training_is_passed_on_as_keras_does(training):
    model = trained_differently()
    results = []
    for run in (
        lambda: model(ROWS, training=training),
        lambda: replay(Graph(model), ROWS, training=training),
    ):
        with keras.StatelessScope() as scope:
            results.append(run())
            states = [scope.get_current_value(v) for v in model.variables]
            results.append(
                [v if s is None else s for v, s in zip(model.variables, states, strict=True)]
            )
    assert_equal(results[2:], results[:2])


def test_training_that_a_nested_model_was_called_with_holds_inside():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.BatchNormalization(name="norm")], name="inner"
    )
    x = keras.Input((6,))
    model, seen = keras.Model(x, inner(x, training=True)), {}

    def keep(call, args, kwargs):
        seen[call.path] = kwargs
        return as_recorded(call, args, kwargs)

    replay(Graph(model), ROWS, keep)
    assert seen["inner/norm"]["training"] is True


def test_another_function_stands_in_each_calls_place():
    model, x = shared_layers_and_models()
    paths = []

    def linear(call, args, kwargs):
        paths.append(call.path)
        if isinstance(call.operation, layers.Dense):
            return ops.matmul(args[0], call.operation.kernel) + 1
        return as_recorded(call, args, kwargs)

    replay(Graph(model), x, linear)
    assert paths == [call.path for call in Graph(model).entered().calls]
    assert len(paths) == len([p for p in paths if "/" in p]) + 2


def test_calls_are_listed_with_their_paths():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="d")], name="inner")
    x = keras.Input((6,))
    model = keras.Model(x, ops.tanh(inner(inner(x))))
    found = calls(model)
    assert [call.path for call in found][:4] == ["inner", "inner/d", "inner", "inner/d"]
    assert found[1] == found[3]
    assert found[0] != found[2]
    assert found == calls(model)
    assert len(set(found)) == 4


def test_entered_graph_leads_across_the_borders_of_nested_models():
    inner_in = keras.Input((6,), name="i")
    inner = keras.Model(inner_in, [layers.Dense(6, name="d")(inner_in), inner_in], name="inner")
    x = keras.Input((6,), name="x")
    a, b = inner(layers.ReLU(name="before")(x))
    model = keras.Model(x, [layers.Add(name="after")([a, b]), b])
    graph = Graph(model).entered()
    assert [call.path for call in graph.calls] == ["before", "inner/d", "after"]
    before, dense, after = graph.calls
    assert graph.producer(dense.inputs[0]) == before
    assert graph.producer(after.inputs[0]) == dense
    assert graph.consumers(before.outputs[0]) == [dense, after]
    assert graph.is_output(before.outputs[0])
    assert graph.is_output(after.outputs[0])
    assert not graph.is_output(dense.outputs[0])


def test_a_sequential_model_called_on_a_structure_has_no_graph():
    model = keras.Sequential([layers.Add(), layers.Dense(2)])
    model([ROWS, ROWS])
    assert not has_graph(model)
