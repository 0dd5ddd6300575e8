"""The layout of the weights of many models."""

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow  # On JAX the models are mapped.


def test_large_variables_lie_alone_and_small_ones_together_and_all_come_back():
    from kerastools.search._stacked.stacked_update import Pieces, rows_of, set_rows

    shapes = [(3,), (80, 60), (2, 2), (), (64, 64)]
    pieces = Pieces(shapes, [False, True, False, False, False])
    assert [len(array) for array in pieces.of_one([np.zeros(s) for s in shapes])] == [4800, 4096, 8]

    rng = np.random.default_rng(0)
    models = [[rng.normal(size=shape) for shape in shapes] for _ in range(2)]
    held = [np.stack(parts) for parts in zip(*map(pieces.of_one, models), strict=True)]
    for k, model in enumerate(models):
        for array, back in zip(model, pieces.arrays([p[k] for p in held]), strict=True):
            np.testing.assert_array_equal(back, array)
    holders = pieces.zeros(2)
    for holder, piece in zip(holders, held, strict=True):
        piece = piece.astype("float32")
        set_rows(holder, dict(enumerate(piece)))
        np.testing.assert_array_equal(rows_of(holder, [1, 0]), piece[::-1])
        set_rows(holder, {1: 0.0})
        np.testing.assert_array_equal(rows_of(holder, [0, 1]), [piece[0], 0 * piece[1]])
    assert [tuple(row.shape) for row in holders[0]] == [(80, 60)] * 2

    # Of the one that is apart, a list of the models' own.
    given = [[model[1] for model in models], *held[1:]]
    tensors = pieces.split(given)
    assert [np.shape(t) for t in tensors] == [(2, *shape) for shape in shapes]
    assert isinstance(tensors[1], list)
    np.testing.assert_array_equal(tensors[2][1], models[1][2])
    for piece, back in zip(given, pieces.join(tensors), strict=True):
        np.testing.assert_array_equal(back, piece)
