"""Registration of classes under the names that saved models carry."""

from collections.abc import Callable
from typing import TypeVar

import keras

PACKAGE = "kerastools"

T = TypeVar("T", bound=type)


def register(name: str | None = None) -> Callable[[T], T]:
    """Registers a class so that Keras finds it again in a saved model.

    The registered name is part of the file format and never changes. To rename a class, register the
    old name first and the new one last: the last is written, both load.

    Args:
        name: The name written to files. Defaults to the class's own name.

    Raises:
        ValueError: If another class holds the name; Keras alone would silently keep the later one.
    """

    def decorate(cls: T) -> T:
        key = f"{PACKAGE}>{name or cls.__name__}"
        holder = keras.saving.get_registered_object(key)
        if holder is not None and holder.__module__ != cls.__module__:
            raise ValueError(
                f"Two classes cannot share the registered name {key!r}: it belongs to "
                f"{holder.__module__}.{holder.__name__}, and {cls.__module__}.{cls.__name__} asked "
                "for it. Pass another name to register()."
            )
        return keras.saving.register_keras_serializable(PACKAGE, name)(cls)

    return decorate
