import keras
import numpy as np
import pytest
from keras import layers, ops

from kerastools.initializers import DeltaOrthogonal


def draw(shape, **arguments):
    return ops.convert_to_numpy(DeltaOrthogonal(**arguments)(shape)).astype("float64")


@pytest.mark.parametrize(
    ("shape", "middle"),
    [((5, 6, 8), (2,)), ((3, 5, 8, 8), (1, 2)), ((1, 3, 3, 4, 4), (0, 1, 1)), ((6, 8), ())],
    ids=["Conv1D", "Conv2D", "Conv3D", "Dense"],
)
def test_the_middle_is_orthogonal_and_the_rest_zero(shape, middle):
    w = draw(shape, seed=1, gain=2.0)
    q = w[middle]
    np.testing.assert_allclose(q @ q.T, 4 * np.eye(shape[-2]), atol=1e-5)
    w[middle] = 0
    assert not w.any()


def test_fifty_convolutions_keep_the_norm_of_every_image():
    x = start = np.random.default_rng(1).normal(size=(2, 6, 6, 8)).astype("float32")
    for seed in range(50):
        initializer = DeltaOrthogonal(seed=seed)
        x = layers.Conv2D(8, 3, padding="same", kernel_initializer=initializer)(x)
    norms = np.linalg.norm(ops.convert_to_numpy(x), axis=-1)
    np.testing.assert_allclose(norms, np.linalg.norm(start, axis=-1), rtol=1e-4)


def test_more_inputs_than_outputs_leave_orthonormal_columns():
    q = draw((3, 8, 4), seed=1)[1]
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-5)


def test_seeds_work_as_in_variance_scaling():
    np.testing.assert_array_equal(draw((3, 4, 4), seed=1), draw((3, 4, 4), seed=1))
    shared = DeltaOrthogonal()
    a, b = (ops.convert_to_numpy(shared((3, 4, 4))) for _ in range(2))
    assert (a != b).any()


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="odd"):
        DeltaOrthogonal()((4, 8, 8))
    with pytest.raises(ValueError, match="odd"):
        DeltaOrthogonal()((8,))
    assert keras.initializers.get(DeltaOrthogonal(seed=1)).seed == 1
