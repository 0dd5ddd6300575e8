"""What stood on an object stands there again, in whatever order patches are undone."""

import functools
import inspect
import itertools

import keras
import numpy as np
import pytest

from kerastools._core.keras_private.patched import patched, unpatched


class Speaker:
    def say(self, word):
        return [word]


def adding(letter):
    return lambda say, *args: [*say(*args), letter]


def own(word):
    return ["own", word]


@pytest.mark.parametrize("has_its_own", [False, True])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_patches_are_undone_in_any_order(order, has_its_own):
    speaker = Speaker()
    if has_its_own:
        speaker.say = own
    before = dict(vars(speaker))
    patches = [patched(speaker, say=adding(letter)) for letter in "abc"]
    left = "abc"
    for i in order:
        assert speaker.say("x")[-len(left) :] == list(left)
        patches[i].undo()
        patches[i].undo()
        left = left.replace("abc"[i], "")
    assert vars(speaker) == before
    assert unpatched(speaker, "say") is (own if has_its_own else Speaker.say)


def test_an_exception_undoes_it_too():
    def interrupted(say, word):
        raise KeyboardInterrupt

    speaker = Speaker()
    with pytest.raises(KeyboardInterrupt), patched(speaker, say=interrupted):
        speaker.say("x")
    assert vars(speaker) == {}


def test_what_the_user_sets_meanwhile_stays():
    speaker = Speaker()
    patch = patched(speaker, say=adding("a"))
    speaker.say = own
    patch.undo()
    assert speaker.say is own


def test_a_wrapper_of_the_user_calls_what_was_there_before():
    speaker = Speaker()
    patch = patched(speaker, say=adding("a"))
    inner = speaker.say

    @functools.wraps(inner)
    def wrapper(word):
        return [*inner(word), "wrapped"]

    speaker.say = wrapper
    assert unpatched(speaker, "say") is wrapper
    patch.undo()
    assert speaker.say("x") == ["x", "wrapped"]


def test_a_patched_method_has_the_signature_of_the_one_below():
    model = keras.Sequential()
    with patched(model, fit=lambda fit, *args, **kwargs: fit(*args, **kwargs)):
        assert inspect.signature(model.fit) == inspect.signature(keras.Sequential().fit)


def test_an_object_without_the_method_is_refused():
    speaker = Speaker()
    with pytest.raises(AttributeError):
        patched(speaker, say=adding("a"), sing=adding("b"))
    assert vars(speaker) == {}


def test_keras_calls_what_stands_on_the_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    def constant(compute_loss, *args, **kwargs):
        return 0.0 * compute_loss(*args, **kwargs) + 7.0

    with patched(model, compute_loss=constant):
        history = model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert history.history["loss"] == [7.0]
