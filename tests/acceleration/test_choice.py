"""What `accelerate` chooses, given what it measures."""

from types import SimpleNamespace

import pytest

from kerastools.acceleration._choice import _Choice

SMALL_GRAPH = SimpleNamespace(num_operations=2000, has_convolutions=False, num_loops=0)
RECURRENT = SimpleNamespace(num_operations=2600, has_convolutions=False, num_loops=2)


def train(choice, steps, seconds, programs=SMALL_GRAPH, compile_seconds=2.0, step_bytes=1000):
    """Plays a training of `steps` steps; `seconds` are what a step and a call of it cost."""
    done, total, compiled, tried = 0, 0.0, set(), []
    choice.begin(0.4, step_bytes, steps, programs)
    while done < steps:
        measuring = choice.measuring
        program, num = choice.next()
        num = min(num, steps - done)
        per_step, per_call = seconds[program]
        took = per_call + num * per_step + (compile_seconds if program not in compiled else 0)
        compiled.add(program)
        tried.append(program)
        done, total = done + num, total + took
        if measuring:
            choice.record(num, took, step_bytes, steps - done, programs)
        choice.count()
    return total, tried


TIMES = {"loop": (0.0017, 0.004), "xla": (0.0006, 0.004), "single": (0.0025, 0.0)}


def test_a_long_training_of_a_small_net_ends_in_xla():
    choice = _Choice(jax=False, epoch=42)
    total, _ = train(choice, 20_000, TIMES)
    assert (choice.program, choice.length) == ("xla", 42)
    assert total < 2 + 2 + 20_000 * 0.00075
    assert str(choice).startswith("42 steps a call, looped with XLA (ms a step: looped 1.8")


def test_a_training_of_200_steps_does_not_pay_for_xla():
    choice = _Choice(jax=False, epoch=42)
    total, tried = train(choice, 200, TIMES)
    assert set(tried) == {"loop"}
    assert choice.length == 42
    assert total < 2 + 200 * 0.0025


def test_a_recurrent_net_takes_xla_at_once_where_the_steps_pay_for_it():
    times = {"loop": (0.0026, 0.004), "xla": (0.0009, 0.004)}
    choice = _Choice(jax=False, epoch=40)
    assert set(train(choice, 1000, times, RECURRENT)[1]) == {"xla"}
    assert (choice.length, choice.settled) == (40, True)
    assert set(train(_Choice(jax=False, epoch=40), 300, times, RECURRENT)[1]) == {"loop"}


def test_a_recurrent_net_whose_xla_is_slow_comes_back_to_the_loop():
    choice = _Choice(jax=False, epoch=40)
    times = {"loop": (0.005, 0.004), "xla": (0.02, 0.004)}
    _, tried = train(choice, 20_000, times, RECURRENT)
    assert (choice.program, choice.settled) == ("loop", True)
    assert tried.count("xla") <= 4
    failed = _Choice(jax=False, epoch=40)
    failed.begin(0.4, 1000, 1000, RECURRENT)
    failed.give_up()
    assert set(train(failed, 5000, times, RECURRENT)[1]) == {"loop"}
    assert failed.length > 10


def test_xla_that_was_asked_for_is_compiled_for_what_fits_in_memory():
    choice = _Choice(jax=False, xla=True, epoch=1000)
    _, tried = train(choice, 2000, {"xla": (0.01, 0.0)}, step_bytes=2**20)
    assert (set(tried), choice.length, choice.next()[1]) == ({"xla"}, 63, 20)


def test_a_slow_step_runs_alone():
    choice = _Choice(jax=False, epoch=1000)
    _, tried = train(choice, 30, {"loop": (0.2, 0.004)})
    assert choice.length == 1
    assert len(tried) == 30


def test_a_call_lasts_a_fifth_of_a_second():
    choice = _Choice(jax=False, epoch=1000, xla=False)
    train(choice, 2000, {"loop": (0.01, 0.003)})
    assert choice.length == 19


def test_a_stack_has_64_megabytes_at_most():
    choice = _Choice(jax=False, epoch=1000, xla=False)
    train(choice, 2000, TIMES, step_bytes=16 * 2**20)
    assert choice.length == 4


def test_convolutions_are_tried_with_xla_only_where_they_are_small_and_steps_are_many():
    programs = SimpleNamespace(num_operations=700, has_convolutions=True, num_loops=0)
    small = {"loop": (0.001, 0.004), "xla": (0.0006, 0.004)}
    large = {"loop": (0.002, 0.004), "xla": (0.02, 0.004)}
    for times, steps, expected in [
        (small, 20_000, {"loop"}),
        (small, 60_000, {"loop", "xla"}),
        (large, 60_000, {"loop"}),
    ]:
        choice = _Choice(jax=False, epoch=42)
        assert set(train(choice, steps, times, programs)[1]) == expected


def test_arithmetic_is_not_tried_with_xla():
    programs = SimpleNamespace(num_operations=100, has_convolutions=False, num_loops=0)
    _, tried = train(_Choice(jax=False, epoch=42), 20_000, {"loop": (0.005, 0.003)}, programs)
    assert set(tried) == {"loop"}


@pytest.mark.parametrize("per_step", [0.0018, 0.05])
def test_xla_that_turns_out_slower_is_dropped_soon(per_step):
    choice = _Choice(jax=False, epoch=42)
    total, tried = train(choice, 20_000, {"loop": (0.0017, 0.004), "xla": (per_step, 0.004)})
    assert choice.program == "loop"
    assert choice.length == 42
    assert tried.count("xla") <= 4
    assert total < 1.1 * 20_000 * 0.0018 + 4


def test_xla_that_cannot_be_compiled_is_given_up():
    choice = _Choice(jax=False, epoch=42)
    train(choice, 150, TIMES)
    choice._try("xla", 42)
    assert choice.compiling_on_trial
    choice.give_up()
    assert (choice.program, choice.length, choice.settled) == ("loop", 42, True)


def test_jax_loops_only_where_the_steps_left_pay_for_compiling():
    short, long = _Choice(jax=True, epoch=42), _Choice(jax=True, epoch=42)
    times = {"single": (0.003, 0.0), "loop": (0.001, 0.002)}
    assert set(train(short, 200, times)[1]) == {"single"}
    total, _ = train(long, 20_000, times)
    assert (long.program, long.length) == ("loop", 42)
    assert total < 20_000 * 0.0015


def test_jax_leaves_a_slow_step_alone():
    choice = _Choice(jax=True, epoch=42)
    _, tried = train(choice, 5000, {"single": (0.1, 0.0)})
    assert set(tried) == {"single"}
    assert choice.settled


def test_nothing_is_measured_where_all_is_given():
    choice = _Choice(jax=False, steps=10, xla=False)
    assert choice.next() == ("loop", 10)
    assert not choice.measuring
