"""Saying once what is done otherwise than asked."""

import warnings


class KerastoolsNotice(UserWarning):
    """Says that something is done otherwise than asked, and which argument or layer is why.

    The result is right; it takes the slower way, or fewer steps a call, or one trial after the
    other. Silence it with `warnings.simplefilter("ignore", kerastools.KerastoolsNotice)`.
    """


def notify(text: str, stacklevel: int = 3) -> None:
    """Warns with `text`, shown at the caller of the function that calls this."""
    warnings.warn(text, KerastoolsNotice, stacklevel=stacklevel)
