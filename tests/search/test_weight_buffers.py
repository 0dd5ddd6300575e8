"""Layout of the weights of several models in buffers."""

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow  # On JAX, models are mapped.


def test_large_variables_have_their_own_buffers_and_small_ones_share_one():
    from kerastools.search._stacked.stacked_update import WeightBuffers, read_slots, write_slots

    shapes = [(3,), (80, 60), (2, 2), (), (64, 64)]
    buffers = WeightBuffers(shapes, [False, True, False, False, False])
    assert [len(a) for a in buffers.flatten([np.zeros(s) for s in shapes])] == [4800, 4096, 8]

    rng = np.random.default_rng(0)
    models = [[rng.normal(size=shape) for shape in shapes] for _ in range(2)]
    held = [np.stack(parts) for parts in zip(*map(buffers.flatten, models), strict=True)]
    for k, model in enumerate(models):
        for array, back in zip(model, buffers.unflatten([b[k] for b in held]), strict=True):
            np.testing.assert_array_equal(back, array)
    variables = buffers.zeros(2)
    for variable, values in zip(variables, held, strict=True):
        values = values.astype("float32")
        write_slots(variable, dict(enumerate(values)))
        np.testing.assert_array_equal(read_slots(variable, [1, 0]), values[::-1])
        write_slots(variable, {1: 0.0})
        np.testing.assert_array_equal(read_slots(variable, [0, 1]), [values[0], 0 * values[1]])
    assert [tuple(row.shape) for row in variables[0]] == [(80, 60)] * 2

    # The buffer of a separate variable is a list with one variable for each model.
    given = [[model[1] for model in models], *held[1:]]
    tensors = buffers.split(given)
    assert [np.shape(t) for t in tensors] == [(2, *shape) for shape in shapes]
    assert isinstance(tensors[1], list)
    np.testing.assert_array_equal(tensors[2][1], models[1][2])
    for buffer, back in zip(given, buffers.join(tensors), strict=True):
        np.testing.assert_array_equal(back, buffer)
