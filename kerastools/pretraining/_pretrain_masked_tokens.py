"""Pretraining a text encoder by predicting deleted words."""

import os
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from kerastools._core.batches import Batches
from kerastools._core.graph.calls import sublayers
from kerastools._core.graph.kinds import is_kind
from kerastools._core.registration import register
from kerastools._core.replicas import in_strategy_scope, mean_over_replicas
from kerastools.pretraining._masked_tokens import MaskedTokens
from kerastools.pretraining._resumable_fit import resumable_fit, seed_of
from kerastools.pretraining._rows import check_batch_size, check_encoder, fresh_optimizer

_NAME = "pretrain_masked_tokens"


@in_strategy_scope
def pretrain_masked_tokens(
    encoder: keras.Model,
    texts: Iterable[str],
    task: MaskedTokens,
    optimizer: Any = None,
    epochs: int = 10,
    batch_size: int = 64,
    seed: int | None = None,
    directory: str | os.PathLike[str] | None = None,
    **fit: Any,
) -> keras.Model:
    """Trains `encoder`, in place, to predict words that `task` deletes from `texts`.

    Pretraining on an auxiliary task: the lower layers learn what words mean from text that nobody
    labelled; take them with `kerastools.transfer.reuse_layers` and train new upper ones under a
    `FreezeSchedule`. The loss J is that of `MaskedTokens`; it starts at ln(vocabulary), and other
    words are deleted in every epoch.

    Args:
        encoder: A built model from token ids `(rows, length)` to features of each token, `(rows,
            length, features)`: an `Embedding`, and on it LSTM or Transformer layers, say. It must
            look both ways, as `Bidirectional(LSTM(..., return_sequences=True))` does, or what
            follows a deleted word cannot help.
        texts: Strings; long ones are split into rows.
        task: What is deleted.
        optimizer: An optimizer to copy, or its name. By default Adam with learning rate 0.001.
        epochs: Passes over the texts.
        batch_size: Rows per step. Only whole batches are taken, in a new order each epoch.
        seed: Integer that fixes which words are deleted and the order of rows. By
            default it is new each time.
        directory: Where everything is kept after each epoch; the same call in a new process
            goes on from there, to the bit.
        **fit: What `keras.Model.fit` takes: `verbose`, `callbacks`.

    Returns:
        A model of the encoder's own layers and "words", a `Dense` layer that gives the logits of
        the tokens at the positions asked for. Its `history` has the loss and the accuracy.

    Raises:
        TypeError: If the encoder is not a Keras model, the texts are not strings, or the task is
            not a `MaskedTokens`.
        ValueError: If the encoder has no trainable weights, does not take rows of the task's
            length or does not return features for each token, its `Embedding` is smaller than the
            vocabulary, or there are fewer rows than `batch_size`. Nothing is changed then.

    Example:

    >>> from kerastools.pretraining import train_tokenizer
    >>> texts = ["the cat sat on the mat", "the dog sat on the log"] * 20
    >>> task = MaskedTokens(train_tokenizer(texts, 80), length=8)
    >>> tokens = keras.Input((8,), dtype="int32")
    >>> features = keras.layers.Embedding(task.vocabulary_size, 16)(tokens)
    >>> features = keras.layers.Conv1D(16, 3, padding="same", name="context")(features)
    >>> encoder = keras.Model(tokens, features)
    >>> model = pretrain_masked_tokens(encoder, texts, task, epochs=3, batch_size=8, verbose=0)
    >>> losses = model.history.history["loss"]
    >>> losses[-1] < losses[0]
    True

    Reference: Devlin, Chang, Lee and Toutanova, "BERT: pre-training of deep bidirectional
    transformers for language understanding", NAACL 2019.
    """
    seed = seed_of(seed, directory)
    check_encoder(encoder, _NAME)
    if not isinstance(task, MaskedTokens):
        raise TypeError(f"{_NAME} needs a MaskedTokens as task. Received {task!r}.")
    _check_shapes(encoder, task)
    tokens, words = task.encode(texts, split=True)
    check_batch_size(len(tokens), batch_size, _NAME)
    features = encoder.outputs[0]
    positions = keras.Input((max(1, round(task.rate * task.length)),), dtype="int32")
    asked = ops.matmul(ops.one_hot(positions, task.length, dtype=features.dtype), features)
    # With zero weights the first loss is ln(vocabulary), whatever the encoder returns.
    logits = keras.layers.Dense(task.vocabulary_size, kernel_initializer="zeros", name="words")
    model = keras.Model([encoder.inputs[0], positions], logits(asked), name="masked_tokens")
    model.compile(
        fresh_optimizer(optimizer, 1e-3),
        MaskedCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    batches = Batches(
        [tokens, words],
        batch_size,
        seed,
        lambda arrays, rng: task.delete(arrays[0], arrays[1], rng),
    )
    resumable_fit(model, batches, epochs, directory, **fit)
    return model


@register
class MaskedCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """The mean over the deleted words, of the rows of all replicas."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Returns J; on a replica its part of it."""
        return mean_over_replicas(self.call(y_true, y_pred), sample_weight)


def _check_shapes(encoder: keras.Model, task: MaskedTokens) -> None:
    taken, returned = tuple(encoder.inputs[0].shape), tuple(encoder.outputs[0].shape)
    if len(taken) != 2 or taken[1] not in (None, task.length):
        raise ValueError(
            f"{_NAME} needs an encoder of token ids, shape (None, {task.length}). Received model "
            f'"{encoder.name}", which takes {taken}. Start it with '
            f"keras.Input(({task.length},), dtype='int32')."
        )
    if len(returned) != 3 or returned[1] not in (None, task.length) or returned[2] is None:
        raise ValueError(
            f"{_NAME} needs an encoder that returns features of every token, shape (None, "
            f'{task.length}, features). Received model "{encoder.name}", which returns {returned}. '
            "Leave pooling to the upper layers, and give recurrent layers return_sequences=True."
        )
    for layer in sublayers(encoder):
        if is_kind(layer, "embedding") and layer.input_dim < task.vocabulary_size:
            # A table of positions is as long as the row, not as the vocabulary.
            if layer.input_dim == task.length:
                continue
            raise ValueError(
                f"{_NAME} needs an Embedding with input_dim of at least the vocabulary's size, "
                f'{task.vocabulary_size}. Received layer "{layer.name}" with input_dim='
                f"{layer.input_dim}. Use Embedding(task.vocabulary_size, ...)."
            )
