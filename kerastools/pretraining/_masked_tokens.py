"""The task of predicting words that were deleted from a text."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerastools._core.checks import require_at_least
from kerastools.pretraining._train_tokenizer import check_texts


@dataclass(frozen=True)
class MaskedTokens:
    """Deletes words from texts, for an encoder to predict them: labels that cost nothing.

    The task of `pretrain_masked_tokens`. Of a row with n tokens about `rate` · n are chosen, at
    least one word. Each chosen token becomes "[MASK]" with probability `mask_share`, a random token
    with `random_share`, and stays as it is otherwise, so that the encoder cannot rely on "[MASK]",
    which it will not meet later. With C the chosen positions and x̃ the row so changed:

        J = −mean over C of log p(xᵢ | x̃)

    An encoder that knows nothing has J = ln(vocabulary); one that knows how frequent each token is
    has the entropy of their distribution.

    Args:
        tokenizer: A `tokenizers.Tokenizer` with the tokens "[PAD]" of id 0 and "[MASK]", such as
            `train_tokenizer` returns.
        length: Tokens per row. Shorter texts are filled with "[PAD]".
        rate: Share of the tokens that is chosen, in (0, 1).
        mask_share: Share of the chosen tokens that becomes "[MASK]".
        random_share: Share of the chosen tokens that becomes a random token.
        whole_words: Whether all pieces of a word are chosen together. A word that would exceed the
            share is passed over, except where the row would be left without any.

    Raises:
        TypeError: If the tokenizer is not one.
        ValueError: If a number is out of range, or the vocabulary is too small to choose from.

    Example:

    >>> from kerastools.pretraining import train_tokenizer
    >>> texts = ["the cat sat on the mat", "the dog sat on the log"] * 10
    >>> task = MaskedTokens(train_tokenizer(texts, 80), length=8, rate=0.3)
    >>> tokens, words = task.encode(texts)
    >>> tokens.shape
    (20, 8)
    >>> (inputs, positions), targets, weights = task.delete(tokens, words, np.random.default_rng(1))
    >>> inputs.shape, positions.shape
    ((20, 8), (20, 2))

    References: Devlin, Chang, Lee and Toutanova, "BERT: pre-training of deep bidirectional
    transformers for language understanding", NAACL 2019; Taylor, "Cloze procedure", 1953.
    """

    tokenizer: Any
    length: int = 32
    rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = True

    def __post_init__(self) -> None:
        if not all(hasattr(self.tokenizer, n) for n in ("encode_batch", "token_to_id")):
            raise TypeError(
                "MaskedTokens needs a tokenizers.Tokenizer, such as train_tokenizer returns. "
                f"Received {self.tokenizer!r} of type {type(self.tokenizer).__name__}."
            )
        require_at_least(2, "MaskedTokens", length=self.length)
        if not 0 < self.rate < 1:
            raise ValueError(f"MaskedTokens needs a rate in (0, 1). Received rate={self.rate}.")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError(
                "MaskedTokens needs mask_share and random_share of at least 0 that sum to at most "
                f"1. Received {self.mask_share} and {self.random_share}."
            )
        pad, mask = (self.tokenizer.token_to_id(token) for token in ("[PAD]", "[MASK]"))
        if pad != 0 or mask is None:
            raise ValueError(
                'MaskedTokens needs a tokenizer with the tokens "[PAD]", of id 0, and "[MASK]". '
                f"Received one in which their ids are {pad} and {mask}. Train one with "
                "train_tokenizer."
            )
        if len(self._ordinary()) < 2:
            raise ValueError(
                "MaskedTokens needs a vocabulary with at least two tokens besides the special "
                f"ones. Received one of {self.vocabulary_size}. Train it on more texts or with a "
                "larger vocabulary_size."
            )

    @property
    def vocabulary_size(self) -> int:
        """The number of token ids, the `input_dim` of the encoder's `Embedding`."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def mask_id(self) -> int:
        """The id of "[MASK]"."""
        return int(self.tokenizer.token_to_id("[MASK]"))

    def encode(self, texts: Iterable[str], split: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Returns the token ids of each text, and the number of the word that each belongs to.

        Args:
            texts: Strings.
            split: Whether a long text goes on in further rows; otherwise it is cut off.

        Returns:
            Two int32 arrays of shape `(rows, length)`; padding has id 0 and word number −1. With
            `split` there may be more rows than texts, and texts without tokens have none.
        """
        rows = []
        for encoding in self.tokenizer.encode_batch(check_texts(texts, "MaskedTokens.encode")):
            ids, words = encoding.ids, encoding.word_ids
            end = len(ids) if split else min(len(ids), self.length)
            starts = range(0, end, self.length) if split or end else [0]
            for i in starts:
                rows.append((ids[i : i + self.length], words[i : i + self.length]))
        tokens = np.zeros((len(rows), self.length), "int32")
        numbers = np.full((len(rows), self.length), -1, "int32")
        for row, (ids, words) in enumerate(rows):
            tokens[row, : len(ids)] = ids
            # From 0 in each row; special tokens inside a text belong to no word.
            known = [w for w in words if w is not None]
            first = min(known, default=0)
            numbers[row, : len(ids)] = [-1 if w is None else w - first for w in words]
        return tokens, numbers

    def delete(
        self, tokens: np.ndarray, words: np.ndarray, rng: np.random.Generator
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
        """Returns what `fit` takes: ((changed tokens, positions), true tokens, weights).

        Each row has as many positions as the share of a full row; those it does not need have
        weight 0. Of a single word that is longer, all is deleted and the first pieces are asked.
        """
        chosen = self._choose(words, rng)
        slots = max(1, round(self.rate * self.length))
        positions = np.argsort(~chosen, axis=1, kind="stable")[:, :slots].astype("int32")
        weights = np.take_along_axis(chosen, positions, axis=1).astype("float32")
        targets = np.take_along_axis(tokens, positions, axis=1)
        fate = rng.random(tokens.shape)
        random = self._ordinary()[rng.integers(len(self._ordinary()), size=tokens.shape)]
        changed = np.where(chosen & (fate < self.mask_share), self.mask_id, tokens)
        swap = chosen & (self.mask_share <= fate) & (fate < self.mask_share + self.random_share)
        changed = np.where(swap, random, changed)
        return (changed.astype("int32"), positions), targets, weights

    def _choose(self, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns which tokens are chosen."""
        rows, length = words.shape
        real = words >= 0
        if not self.whole_words:
            words = np.where(real, np.arange(length), -1)
        # Words in random order, each with all its tokens; padding at the end.
        keys = np.take_along_axis(rng.random((rows, length)), np.maximum(words, 0), axis=1)
        order = np.argsort(np.where(real, keys, 2.0), axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        ends = np.zeros((rows, length), int)  # how many tokens lie before the end of each word
        row = np.broadcast_to(np.arange(rows)[:, None], words.shape)
        np.maximum.at(ends, (row[real], words[real]), rank[real] + 1)
        end = np.take_along_axis(ends, np.maximum(words, 0), axis=1)
        share = np.maximum(1, np.round(self.rate * real.sum(axis=1, keepdims=True)))
        first = words == np.take_along_axis(words, order[:, :1], axis=1)
        return real & ((end <= share) | first)

    def _ordinary(self) -> np.ndarray:
        """Returns the ids of the tokens that are not special."""
        vocabulary = self.tokenizer.get_vocab()
        special = {t.content for t in self.tokenizer.get_added_tokens_decoder().values()}
        return np.array(sorted(i for token, i in vocabulary.items() if token not in special))
