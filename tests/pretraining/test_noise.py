import numpy as np
import pytest

from kerastools.pretraining import GaussianNoise, MaskingNoise


def rng():
    return np.random.default_rng(7)


def test_masking_deletes_the_share_and_nothing_else():
    x = np.random.default_rng(1).normal(size=(400, 30)).astype("float32")
    noisy, weight = MaskingNoise(0.3, value=9.0)(x, rng())
    deleted = noisy == 9.0
    assert weight is None
    assert deleted.mean() == pytest.approx(0.3, abs=0.015)
    np.testing.assert_array_equal(noisy[~deleted], x[~deleted])


@pytest.mark.parametrize("kept", [0.0, 0.25])
def test_weights_say_what_was_deleted(kept):
    x = np.ones((50, 12), "float32")
    noisy, weight = MaskingNoise(0.4, kept_weight=kept)(x, rng())
    np.testing.assert_array_equal(weight, np.where(noisy == 0, 1.0, kept))


def test_patches_are_deleted_whole_in_all_channels():
    x = np.ones((200, 8, 6, 3), "float32")
    noisy, _ = MaskingNoise(0.5, patch=(4, 2))(x, rng())
    patches = noisy.reshape(200, 2, 4, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(1200, -1)
    assert set(patches.sum(axis=1)) == {0.0, 24.0}
    assert patches.mean() == pytest.approx(0.5, abs=0.05)


def test_patches_may_stick_out():
    noisy, _ = MaskingNoise(0.5, patch=(3,))(np.ones((100, 7, 2), "float32"), rng())
    assert noisy.shape == (100, 7, 2)
    assert 0.3 < noisy[:, 6].mean() < 0.7


def test_gaussian_noise_has_its_standard_deviation():
    x = np.random.default_rng(1).normal(size=(400, 30)).astype("float32")
    noisy, weight = GaussianNoise(0.7)(x, rng())
    assert weight is None
    assert noisy.dtype == np.float32
    assert (noisy - x).std() == pytest.approx(0.7, rel=0.02)
    assert (noisy - x).mean() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaskingNoise(0.0),
        lambda: MaskingNoise(1.0),
        lambda: MaskingNoise(0.3, kept_weight=-1),
        lambda: MaskingNoise(0.3, patch=(0, 2)),
        lambda: MaskingNoise(0.3, patch=(2, 2))(np.zeros((3, 8), "float32"), rng()),
        lambda: GaussianNoise(0),
    ],
)
def test_bad_numbers_are_refused(make):
    with pytest.raises(ValueError, match="Noise needs"):
        make()
