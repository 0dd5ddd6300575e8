import numpy as np

from kerastools._core.batches import Batches


def batches(**changes):
    arguments = {"batch_size": 4, "seed": 1, **changes}
    return Batches([np.arange(10), np.arange(10) * 2.0], transform=lambda a, rng: a, **arguments)


def test_an_epoch_takes_whole_batches_without_repeating_a_row():
    data = batches()
    assert len(data) == 2
    rows = np.concatenate([data[i][0] for i in range(2)])
    assert len(set(rows)) == 8
    for a, b in (data[i] for i in range(2)):
        np.testing.assert_array_equal(b, 2 * a)


def test_batches_depend_on_seed_epoch_and_position_alone():
    one, two, other = batches(), batches(), batches(seed=2)
    one.epoch = two.epoch = other.epoch = 3
    _ = one[1]
    np.testing.assert_array_equal(one[0][0], two[0][0])
    assert (one[0][0] != other[0][0]).any()
    first = np.concatenate([one[i][0] for i in range(2)])
    one.epoch = 4
    assert (first != np.concatenate([one[i][0] for i in range(2)])).any()


def test_the_generator_differs_between_batches():
    data = Batches([np.zeros(8)], 4, 1, transform=lambda a, rng: (rng.random(),))
    assert data[0] != data[1]
    assert data[0] == data[0]
