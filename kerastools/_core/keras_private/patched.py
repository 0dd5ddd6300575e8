"""Methods of a user's object, replaced for a while."""

import functools
from collections.abc import Callable
from typing import Any, Self

_ABSENT = object()


class patched:  # noqa: N801  It reads as a context manager, like `contextlib.suppress`.
    """Replaces methods of one object until `undo`, or inside a `with` block.

    `undo` puts back exactly what stood there: the object's own attribute if it had one, else the
    method of its class. Patches of the same method may be undone in any order, and the user may
    replace a patched method, or wrap it, meanwhile: what was undone calls what stands below it.

    Keras calls these methods on the object; for one that exists already there is no public way to
    step in between.

    Args:
        obj: Any object with a `__dict__`.
        **methods: Functions called in place of the method of that name, with the method that stands
            below as their first argument.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> with patched(model, count_params=lambda count_params: 2 * count_params()):
    ...     model.count_params()
    6
    >>> model.count_params()
    3
    """

    def __init__(self, obj: Any, **methods: Callable[..., Any]) -> None:
        self._obj = obj
        self._patches = {name: _Patch(obj, name, method) for name, method in methods.items()}
        vars(obj).update(self._patches)

    def undo(self) -> None:
        """Puts back what stood there; a second call does nothing."""
        attributes = vars(self._obj)
        for name, patch in self._patches.items():
            patch.undone = True
            # Below it may be patches that were undone before it.
            while isinstance(top := attributes.get(name), _Patch) and top.undone:
                del attributes[name]
                if top.replaced is not _ABSENT:
                    attributes[name] = top.replaced

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.undo()


def unpatched(obj: Any, name: str) -> Any:
    """Returns what `obj` has as `name` below all patches: its own function, or its class's.

    A user may have replaced a method on the one object: then it is not the method of its class.
    """
    found = vars(obj).get(name, _ABSENT)
    while isinstance(found, _Patch):
        found = found.replaced
    return getattr(type(obj), name) if found is _ABSENT else found


class _Patch:
    """What stands on the object."""

    def __init__(self, obj: Any, name: str, method: Callable[..., Any]) -> None:
        self.below, self.method, self.undone = getattr(obj, name), method, False
        functools.update_wrapper(self, self.below, updated=())
        self.replaced = vars(obj).get(name, _ABSENT)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.undone:
            return self.below(*args, **kwargs)
        return self.method(self.below, *args, **kwargs)
