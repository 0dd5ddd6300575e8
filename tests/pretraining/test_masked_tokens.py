import inspect
import statistics
import textwrap

import keras
import numpy as np
import pytest

from kerastools.pretraining import MaskedTokens, pretrain_masked_tokens, train_tokenizer
from kerastools.transfer import reuse_layers

L = keras.layers
TEXTS = [
    paragraph
    for thing in (statistics, textwrap, inspect)
    for _, member in inspect.getmembers(thing)
    if inspect.getmodule(member) is thing and inspect.getdoc(member)
    for paragraph in inspect.getdoc(member).split("\n\n")
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocabulary_size=400)


def test_tokenizer_keeps_to_its_vocabulary_and_knows_every_word(tokenizer):
    assert tokenizer.get_vocab_size() == 400
    assert [tokenizer.token_to_id(t) for t in ("[PAD]", "[UNK]", "[MASK]")] == [0, 1, 2]
    encoding = tokenizer.encode("The standard deviation")
    assert 1 not in encoding.ids
    assert "".join(encoding.tokens) == "thestandarddeviation"
    assert set(encoding.word_ids) == {0, 1, 2}


def test_equal_texts_give_equal_tokenizers(tokenizer):
    for _ in range(3):
        assert train_tokenizer(TEXTS, 400).to_str() == tokenizer.to_str()


def test_encoded_rows_hold_the_tokens_and_their_words(tokenizer):
    task = MaskedTokens(tokenizer, length=8)
    tokens, words = task.encode(["the mode", "", TEXTS[0]])
    want = tokenizer.encode("the mode")
    n = len(want.ids)
    assert n <= 8
    np.testing.assert_array_equal(tokens[0], want.ids + [0] * (8 - n))
    np.testing.assert_array_equal(words[0], want.word_ids + [-1] * (8 - n))
    assert (tokens[1] == 0).all()
    assert len(tokens) == 3  # one row per text


def test_split_texts_lose_nothing(tokenizer):
    task = MaskedTokens(tokenizer, length=8)
    tokens, words = task.encode(TEXTS[:5], split=True)
    want = [i for encoding in tokenizer.encode_batch(TEXTS[:5]) for i in encoding.ids]
    np.testing.assert_array_equal(tokens[words >= 0], want)
    assert words.max() < 8


@pytest.mark.parametrize("whole_words", [True, False])
def test_shares_are_as_set(tokenizer, whole_words):
    task = MaskedTokens(
        tokenizer,
        length=32,
        rate=0.25,
        mask_share=0.6,
        random_share=0.3,
        whole_words=whole_words,
    )
    tokens, words = task.encode(TEXTS * 30, split=True)
    (changed, positions), targets, weights = task.delete(tokens, words, np.random.default_rng(1))
    asked = weights > 0
    before = np.take_along_axis(tokens, positions, axis=1)[asked]
    after = np.take_along_axis(changed, positions, axis=1)[asked]
    np.testing.assert_array_equal(targets[asked], before)
    assert (after == task.mask_id).mean() == pytest.approx(0.6, abs=0.02)
    # A random token may happen to be the old one.
    assert (after == before).mean() == pytest.approx(0.1, abs=0.02)
    share = asked.sum() / (words >= 0).sum()
    assert share == pytest.approx(0.25, abs=0.03)
    # What is not asked for is untouched, and padding never asked for.
    chosen = np.zeros(tokens.shape, bool)
    np.put_along_axis(chosen, positions, asked, axis=1)
    assert (words[chosen] >= 0).all()
    if not whole_words:
        np.testing.assert_array_equal(changed[~chosen], tokens[~chosen])


def test_words_are_deleted_whole(tokenizer):
    task = MaskedTokens(tokenizer, length=32, rate=0.3, mask_share=1.0, random_share=0.0)
    tokens, words = task.encode(TEXTS * 5, split=True)
    (changed, _), _, weights = task.delete(tokens, words, np.random.default_rng(1))
    gone = changed != tokens
    several = 0
    for row in range(len(tokens)):
        for word in set(words[row][gone[row]]):
            pieces = gone[row][words[row] == word]
            assert pieces.all()
            several += len(pieces) > 1
    assert several > 50
    assert (weights.sum(axis=1)[(words >= 0).any(axis=1)] >= 1).all()


def unigram_entropy(task):
    tokens, words = task.encode(TEXTS, split=True)
    share = np.bincount(tokens[words >= 0]) / (words >= 0).sum()
    return -(share[share > 0] * np.log(share[share > 0])).sum()


def encoder(task):
    keras.utils.set_random_seed(2)
    tokens = keras.Input((task.length,), dtype="int32")
    x = L.Embedding(task.vocabulary_size, 48, name="embedding")(tokens)
    x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 24, name="context")(x, x))
    return keras.Model(tokens, x, name="transformer")


@pytest.mark.tensorflow  # That it resumes is tested on both; learning takes JAX long.
def test_loss_starts_at_the_vocabulary_and_falls_below_the_unigram_entropy(tokenizer, capsys):
    task = MaskedTokens(tokenizer, length=16, rate=0.2)
    model = pretrain_masked_tokens(
        encoder(task),
        TEXTS,
        task,
        optimizer=keras.optimizers.SGD(0.0),
        epochs=1,
        batch_size=32,
        verbose=0,
    )
    assert model.history.history["loss"][0] == pytest.approx(np.log(400), rel=1e-6)
    trained = encoder(task)
    rate = keras.optimizers.Adam(0.02)
    model = pretrain_masked_tokens(
        trained, TEXTS, task, optimizer=rate, epochs=16, batch_size=32, verbose=0
    )
    losses = model.history.history["loss"]
    with capsys.disabled():
        print(
            f"\nln(vocabulary) {np.log(400):.3f}, first epoch {losses[0]:.3f}, unigram "
            f"entropy {unigram_entropy(task):.3f}, last epoch {losses[-1]:.3f}"
        )
    assert losses[-1] < unigram_entropy(task) - 0.3
    trunk = reuse_layers(model, upto="context")
    assert [tuple(t.shape) for t in trunk.inputs] == [(None, 16)]
    for a, b in zip(trunk.get_weights(), trained.get_weights()[: len(trunk.weights)], strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_interrupted_run_goes_on_to_the_bit(tokenizer, tmp_path):
    task = MaskedTokens(tokenizer, length=16)

    def run(**arguments):
        keras.utils.set_random_seed(1)
        layers = [L.Embedding(400, 8), L.Conv1D(8, 3, padding="same")]
        net = keras.Sequential([keras.Input((16,), dtype="int32"), *layers])
        return pretrain_masked_tokens(net, TEXTS, task, verbose=0, **arguments)

    straight = run(epochs=2)
    run(epochs=1, directory=tmp_path)
    resumed = run(epochs=2, directory=tmp_path)
    assert resumed.history.history == straight.history.history
    for a, b in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, "length >= 2"),
        ({"rate": 1.0}, "rate in"),
        ({"mask_share": 0.9, "random_share": 0.2}, "sum to at most 1"),
        ({"tokenizer": None}, "needs a tokenizers"),
    ],
)
def test_bad_numbers_are_refused(tokenizer, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        MaskedTokens(**{"tokenizer": tokenizer, **arguments})


def test_bad_texts_and_vocabularies_are_refused(tokenizer):
    with pytest.raises(TypeError, match="labels are not needed"):
        train_tokenizer([1, 2, 3])
    with pytest.raises(TypeError, match="one string"):
        train_tokenizer("text")
    with pytest.raises(ValueError, match="at least one text"):
        train_tokenizer([])
    with pytest.raises(ValueError, match="room for"):
        train_tokenizer(TEXTS, vocabulary_size=20)
    with pytest.raises(ValueError, match="at least two tokens"):
        MaskedTokens(train_tokenizer(["a"]))


def test_encoders_that_do_not_fit_are_refused(tokenizer):
    task = MaskedTokens(tokenizer, length=16)

    def net(*layers, length=16):
        return keras.Sequential([keras.Input((length,), dtype="int32"), *layers])

    for model, message in [
        (net(L.Embedding(100, 8)), "input_dim of at least the vocabulary's size, 400"),
        (net(L.Embedding(400, 8), L.LSTM(4)), "return_sequences=True"),
        (net(L.Embedding(400, 8), length=9), "encoder of token ids"),
        (net(L.Flatten()), "without trainable weights"),
    ]:
        with pytest.raises(ValueError, match=message):
            pretrain_masked_tokens(model, TEXTS, task)
    with pytest.raises(ValueError, match="batch_size"):
        pretrain_masked_tokens(net(L.Embedding(400, 8)), TEXTS[:2], task, batch_size=999)
    with pytest.raises(TypeError, match="needs a MaskedTokens"):
        pretrain_masked_tokens(net(L.Embedding(400, 8)), TEXTS, tokenizer)
