import keras
import numpy as np
import pytest
from keras import ops

from kerastools.optimizers import SGD
from kerastools.optimizers._base.clipping import clip_by_value, clip_to_norm, clip_units, norm


def tensors(*arrays):
    return [ops.convert_to_tensor(np.float32(a)) for a in arrays]


def test_clipping_by_value_changes_the_direction():
    (g,) = tensors([0.9, 100.0])
    np.testing.assert_allclose(ops.convert_to_numpy(clip_by_value(g, 1.0)), [0.9, 1.0])


def test_clipping_by_norm_keeps_the_direction():
    (g,) = clip_to_norm(tensors([0.9, 100.0]), 1.0)
    np.testing.assert_allclose(ops.convert_to_numpy(g), [0.00899964, 0.9999595], rtol=1e-6)


def test_shorter_gradients_are_left_alone_to_the_bit():
    given = tensors([0.3, 0.4], [0.1])
    for a, b in zip(clip_to_norm(given, 1.0), given, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_one_norm_over_all():
    assert float(norm(tensors([3.0], [[4.0], [12.0]]))) == 13.0
    a, b = clip_to_norm(tensors([3.0], [4.0]), 1.0)
    np.testing.assert_allclose([float(a[0]), float(b[0])], [0.6, 0.8], rtol=1e-6)


def test_huge_gradients_do_not_overflow():
    (g,) = clip_to_norm(tensors([3e30, 4e30]), 1.0)
    np.testing.assert_allclose(ops.convert_to_numpy(g), [0.6, 0.8], rtol=1e-6)
    half = ops.convert_to_tensor(np.float16([300.0, 400.0]))
    np.testing.assert_allclose(
        ops.convert_to_numpy(clip_to_norm([half], 1.0)[0]), [0.6, 0.8], rtol=1e-3
    )


def test_zero_stays_zero_and_an_infinite_limit_is_none():
    (zero,) = clip_to_norm(tensors([0.0, 0.0]), 1.0)
    np.testing.assert_array_equal(ops.convert_to_numpy(zero), 0.0)
    (g,) = clip_to_norm(tensors([3.0, 4.0]), float("inf"))
    np.testing.assert_array_equal(ops.convert_to_numpy(g), [3.0, 4.0])


def test_units_are_clipped_to_a_part_of_their_weights():
    g, theta = tensors([[30.0, 0.3], [40.0, 0.4]], [[3.0, 3.0], [4.0, 4.0]])
    # Columns: gradient norms 50 and 0.5, weight norms 5; a tenth of that is allowed.
    clipped = ops.convert_to_numpy(clip_units(g, theta, 0.1))
    np.testing.assert_allclose(clipped, [[0.3, 0.3], [0.4, 0.4]], rtol=1e-6)


def test_a_vector_is_one_unit_and_zero_weights_may_move():
    g, zero = tensors([3e20, 4e20], [0.0, 0.0])
    clipped = ops.convert_to_numpy(clip_units(g, zero, 0.1))
    np.testing.assert_allclose(clipped, [0.6e-4, 0.8e-4], rtol=1e-6)


def test_scalars_are_units_and_variables_without_elements_have_norm_0():
    scalar, weight, empty = tensors(50.0, 5.0, np.zeros((0, 3)))
    assert float(clip_units(scalar, weight, 0.1)) == 0.5
    assert clip_units(empty, empty, 0.1).shape == empty.shape
    assert float(norm([empty])) == 0
    a, b = clip_to_norm([empty, scalar], 1.0)
    assert tuple(a.shape) == (0, 3)
    assert float(b) == 1.0
    variables = [keras.Variable(np.zeros((0, 3), "float32")), keras.Variable(5.0)]
    options = {"clipnorm": 1.0, "adaptive_clipnorm": 0.1, "skip_nonfinite": True, "use_ema": True}
    SGD(0.1, **options).apply([empty, scalar], variables)
    assert float(variables[1]) == pytest.approx(4.95)
