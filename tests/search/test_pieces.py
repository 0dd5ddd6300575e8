"""The layout of the weights of many models."""

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow  # On JAX the models are mapped.


def test_large_variables_lie_alone_and_small_ones_together_and_all_come_back():
    from kerastools.search._pieces import Pieces

    shapes = [(3,), (80, 60), (2, 2), (), (64, 64)]
    pieces = Pieces(shapes)
    assert pieces.widths == [4800, 4096, 3 + 4 + 1]

    rng = np.random.default_rng(0)
    models = [[rng.normal(size=shape) for shape in shapes] for _ in range(2)]
    held = [np.stack(parts) for parts in zip(*map(pieces.of_one, models), strict=True)]
    for k, model in enumerate(models):
        for array, back in zip(model, pieces.arrays([p[k] for p in held]), strict=True):
            np.testing.assert_array_equal(back, array)
    tensors = pieces.split(held)
    assert [tuple(t.shape) for t in tensors] == [(2, *shape) for shape in shapes]
    np.testing.assert_array_equal(tensors[2][1], models[1][2])
    for piece, back in zip(held, pieces.join(tensors), strict=True):
        np.testing.assert_array_equal(back, piece)
