"""Classes under the names that saved models carry, and with the config that makes them again."""

import inspect
from typing import Any, Self, TypeVar

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


class Configured:
    """Mixin of what holds the arguments of its constructor as attributes of the same names.

    `_objects` are the names of those that are objects of Keras, or functions.
    """

    _objects: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor as plain data."""
        config: dict[str, Any] = {}
        for cls in type(self).__mro__:
            if "__init__" in vars(cls):
                _, *parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
                several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
                named = [p.name for p in parameters if p.kind not in several]
                # A user's subclass may keep an argument under another name, for its own config.
                held = {name: getattr(self, name) for name in named if hasattr(self, name)}
                config = held | config
                if len(named) == len(parameters):
                    break  # What a constructor takes by **kwargs, it hands on to the next.
        serialize = keras.saving.serialize_keras_object
        return config | {name: serialize(config[name]) for name in self._objects if name in config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Returns what `get_config` described."""
        deserialize = keras.saving.deserialize_keras_object
        return cls(
            **config | {name: deserialize(config[name]) for name in cls._objects if name in config}
        )
