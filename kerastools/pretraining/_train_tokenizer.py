"""A tokenizer learned from the texts at hand."""

from collections.abc import Iterable
from typing import Any

_NAME = "train_tokenizer"
SPECIAL = ("[PAD]", "[UNK]", "[MASK]")


def train_tokenizer(
    texts: Iterable[str], vocabulary_size: int = 4000, lowercase: bool = True
) -> Any:
    """Learns a vocabulary of pieces of words from `texts`, for `MaskedTokens`.

    Needs the package `tokenizers`, `pip install 'kerastools[text]'`. It is chosen over Keras's
    `TextVectorization`, which needs TensorFlow whatever the backend and knows whole words only:
    pieces leave few words unknown with a small vocabulary, and the tokenizer says which pieces are
    one word.

    Texts are split into words at white space and punctuation, and the most frequent pairs of pieces
    are joined, beginning with characters (byte-pair encoding; the word pieces of BERT would do, but
    that library learns other ones from the same texts at each run). The ids of "[PAD]", "[UNK]" and
    "[MASK]" are 0, 1 and 2.

    Args:
        texts: Strings.
        vocabulary_size: The most pieces there may be, those three among them.
        lowercase: Whether case is ignored.

    Returns:
        A `tokenizers.Tokenizer`; `tokenizer.save("tokenizer.json")` keeps it.

    Raises:
        ImportError: If `tokenizers` is not installed.
        TypeError: If `texts` is one string, or holds something else than strings.
        ValueError: If there are no words, or the vocabulary has no room for the characters.

    Example:

    >>> tokenizer = train_tokenizer(["the cat sat", "the cat ran"] * 10, vocabulary_size=40)
    >>> tokenizer.encode("The cat").tokens
    ['the', 'cat']
    >>> tokenizer.token_to_id("[MASK]")
    2

    Reference: Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword
    units", ACL 2016.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            f"{_NAME} needs the package tokenizers: pip install 'kerastools[text]'."
        ) from error
    texts = check_texts(texts, _NAME)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="[UNK]"))
    steps: list[Any] = [tokenizers.normalizers.NFC()]
    if lowercase:
        steps.append(tokenizers.normalizers.Lowercase())
    tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size()
    if size > vocabulary_size or size <= len(SPECIAL):
        raise ValueError(
            f"{_NAME} needs a vocabulary with room for {len(SPECIAL)} special tokens and every "
            f"character of the texts. Received "
            f"vocabulary_size={vocabulary_size} for {len(texts)} texts that need {size}. Pass a "
            "larger one, or texts with words."
        )
    return tokenizer


def check_texts(texts: Any, caller: str) -> list[str]:
    """Returns `texts` as a list, or raises unless it is strings."""
    if isinstance(texts, str):
        raise TypeError(f"{caller} needs a list of texts. Received one string. Pass [text].")
    texts = list(texts)
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(
            f"{caller} needs texts, each a string. Received {texts[wrong]!r} of type "
            f"{type(texts[wrong]).__name__} at position {wrong}; labels are not needed."
        )
    if not texts:
        raise ValueError(f"{caller} needs at least one text. Received an empty list.")
    return texts
