"""Registration of classes under the names that saved models carry."""

from typing import TypeVar

import keras

T = TypeVar("T", bound=type)


def register(cls: T) -> T:
    """Registers `cls` as `kerastools>ClassName`, so that Keras finds it again in a saved model.

    The registered name is part of the file format and never changes.

    Raises:
        ValueError: If another class holds the name; Keras alone would silently keep the later one.
    """
    key = f"kerastools>{cls.__name__}"
    holder = keras.saving.get_registered_object(key)
    if holder is not None and holder.__module__ != cls.__module__:
        raise ValueError(
            f"Two classes cannot share the registered name {key!r}: it belongs to "
            f"{holder.__module__}.{holder.__name__}, and {cls.__module__}.{cls.__name__} asked for "
            "it. Rename the new class."
        )
    return keras.saving.register_keras_serializable("kerastools")(cls)
