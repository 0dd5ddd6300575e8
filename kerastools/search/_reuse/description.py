"""Description of what a compiled model computes, apart from the values of its variables."""

import functools
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerastools._core.graph.calls import Graph, sublayers
from kerastools._core.graph.kinds import parent_kind
from kerastools._core.keras_private.compiled_model import compile_arguments
from kerastools._core.keras_private.graph_nodes import functional_part
from kerastools._core.keras_private.optimizer_hooks import decays, learning_rate_source
from kerastools.layers._mutable_rate import MutableRateLayer
from kerastools.optimizers._base.mutable_optimizer import MutableOptimizer
from kerastools.search._reuse.penalties import PENALTY_ARGUMENTS, mutable_penalties

Description = dict[str, Any]

# Key that is in the description of a model with code of the user's own.
_USER_CODE = "user code"
# Bookkeeping of Python in the namespace of a class.
_OF_EVERY_CLASS = {"__dict__", "__weakref__", "__doc__", "__annotations__", "_abc_impl"}

# They decide the initial values of variables and nothing else, and values are copied.
_ONLY_INITIAL_VALUES = (keras.initializers.Initializer, keras.random.SeedGenerator)


def describe(model: keras.Model) -> Description:
    """Returns what `model` computes as a flat dict, equal for models that can share compiled code.

    Two compiled models of equal description compute the same after the variables of one are copied
    to the other. The description holds everything else that a step can depend on: classes,
    configurations, the graph, loss and metrics, which variables weight decay applies to, and of the
    user's own code the functions with their closures and globals, the classes with their methods
    and attributes, and all attributes of their objects. What is not understood is compared by
    identity, so that two models with it are different. It leaves out initializers, seeds, and
    mutable hyperparameters, which are values: the rate of `kerastools.layers.Dropout`, the learning
    rate, the hyperparameters of `kerastools.optimizers`; on TensorFlow the factors of L1 and L2 and
    the bound of `MaxNorm`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The object being serialized includes a `lambda`")
        return _Walk(model).result


def has_user_code(description: Description) -> bool:
    """Whether the model contains code of the user's own, which may depend on what runs later."""
    return _USER_CODE in description


def difference(first: Description, second: Description) -> str | None:
    """Returns the first difference of two descriptions as text, or `None`."""
    for name in [*first, *(name for name in second if name not in first)]:
        a, b = first.get(name, "nothing"), second.get(name, "nothing")
        if type(a) is not type(b) or a != b:
            return f"{name.lstrip('.')} is {_short(b)} and was {_short(a)}"
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Walk:
    """Walks over everything that a model refers to."""

    def __init__(self, model: keras.Model) -> None:
        self.result: Description = {}
        self.seen: dict[int, str] = {}
        # Activity regularizers are called by the layers, which hold them as constants.
        activities = {id(getattr(x, "activity_regularizer", None)) for x in sublayers(model)}
        self.mutable = mutable_penalties(model) - activities
        self.model: Any = model
        self.variables = {id(v) for v in model.variables}
        self.kept: list[Any] = []  # So that no id is reused during the walk.
        self.visit("", model)
        if getattr(model, "compiled", False):
            for name, value in compile_arguments(model).items():
                self.visit(name, value)
            self.weight_decay()

    def visit(self, path: str, value: Any) -> None:
        """Adds `value` under `path`."""
        if value is None or isinstance(value, str | bool | int | float | complex | bytes):
            # As text, because NaN is not equal to itself, and 1 is equal to True.
            self.result[path] = repr(value)
        elif isinstance(value, np.ndarray | np.generic):
            self.result[path] = (str(value.dtype), value.shape, value.tobytes())
        elif isinstance(value, keras.Variable):
            # Values of other variables are not copied from model to model.
            own = None if id(value) in self.variables else _Identity(value)
            shape = tuple(value.shape)
            self.result[path] = ("variable", str(value.dtype), shape, value.trainable, own)
        elif isinstance(value, _ONLY_INITIAL_VALUES):
            self.result[path] = "initial values"
        elif isinstance(value, keras.dtype_policies.DTypePolicy):
            self.result[path] = value.name
        elif isinstance(value, type):
            self.result[path] = _class_name(value)
            self.class_(path, value)
        elif isinstance(value, types.ModuleType | types.BuiltinFunctionType):
            self.result[path] = value.__name__
        elif isinstance(value, slice):
            self.entries(path, enumerate((value.start, value.stop, value.step)))
        else:
            self.once(path, value)

    def once(self, path: str, value: Any) -> None:
        """Adds an object that may be referred to several times, even by itself."""
        if id(value) in self.seen:
            self.result[path] = f"same as {self.seen[id(value)]}"
            return
        self.seen[id(value)] = path
        self.kept.append(value)
        if isinstance(value, dict):
            self.entries(path, value.items())
        elif isinstance(value, staticmethod | classmethod):
            self.visit(path, value.__func__)
        elif isinstance(value, property):
            self.entries(path, enumerate((value.fget, value.fset, value.fdel)))
        elif isinstance(value, list | tuple):
            self.entries(path, enumerate(value))
        elif isinstance(value, set | frozenset):
            self.result[path] = sorted(map(repr, value))
        elif isinstance(value, functools.partial):
            parts = {"function": value.func, "args": value.args, "kwargs": value.keywords}
            self.entries(path, parts.items())
        elif isinstance(value, types.MethodType):
            self.entries(path, (("self", value.__self__), ("function", value.__func__)))
        elif isinstance(value, types.FunctionType):
            self.function(path, value)
        elif isinstance(value, keras.KerasTensor):
            self.result[path] = (str(value.dtype), tuple(value.shape))
        elif hasattr(value, "__array__"):
            self.visit(path, np.asarray(value))
        else:
            self.object(path, value)

    def entries(self, path: str, items: Any) -> None:
        """Adds the entries of a container."""
        items = list(items)
        self.result[path or "."] = f"{len(items)} entries"
        for key, value in items:
            self.visit(f"{path}.{key}", value)

    def function(self, path: str, function: types.FunctionType) -> None:
        """Adds a function: its code, defaults, closure and the globals that it reads."""
        self.result[path] = f"function {function.__qualname__}"
        if _is_library(function.__module__):
            return
        self.code(path, function.__code__)
        self.visit(f"{path}.defaults", function.__defaults__)
        self.visit(f"{path}.keyword_defaults", function.__kwdefaults__)
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            self.visit(f"{path}.{name}", cell.cell_contents)
        if _is_installed(function.__module__):
            return
        self.result[_USER_CODE] = True
        names = list(_names(function.__code__))
        for name in names:
            if name not in function.__globals__:
                continue
            value = function.__globals__[name]
            self.visit(f"{path}.{name}", value)
            if isinstance(value, types.ModuleType) and not _is_installed(value.__name__):
                for attribute in names:
                    if hasattr(value, attribute):
                        self.visit(f"{path}.{name}.{attribute}", getattr(value, attribute))

    def code(self, path: str, code: types.CodeType) -> None:
        """Adds a code object: bytecode, names, constants and nested code."""
        self.result[f"{path}.code"] = (code.co_code, code.co_names)
        for i, constant in enumerate(code.co_consts):
            if isinstance(constant, types.CodeType):
                self.code(f"{path}.{i}", constant)
            else:
                self.result[f"{path}.constant.{i}"] = repr(constant)

    def class_(self, path: str, cls: type) -> None:
        """Adds the methods and attributes of a class of the user's own, and of its bases."""
        for base in cls.__mro__:
            if _is_installed(base.__module__) or id(base) in self.seen:
                continue
            self.seen[id(base)] = path
            self.kept.append(base)
            self.result[_USER_CODE] = True
            own = {k: v for k, v in vars(base).items() if k not in _OF_EVERY_CLASS}
            self.entries(f"{path}.class {base.__qualname__}", own.items())

    def weight_decay(self) -> None:
        """Adds which variables weight decay applies to."""
        optimizer = self.model.optimizer
        if self.model.built and getattr(optimizer, "weight_decay", None) is not None:
            applies = tuple(decays(optimizer, v) for v in self.model.trainable_variables)
            self.result["weight decay applies to"] = applies

    def object(self, path: str, value: Any) -> None:
        """Adds an object: its class, its configuration, and the attributes of a user's class."""
        self.result[path or "."] = _class_name(type(value))
        library = _is_library(type(value).__module__)
        if not library:
            self.class_(path, type(value))
        if isinstance(value, keras.metrics.Metric) or value is self.model.optimizer:
            # Reset in every epoch, and copied with the model.
            self.variables |= {id(v) for v in value.variables}
        if isinstance(value, keras.Layer):
            self.visit(f"{path}.trainable", value.trainable)
        if isinstance(value, keras.Model):
            self.graph(path, value)
        sequential = isinstance(value, keras.Sequential)  # It has no inputs before it is built.
        if library and isinstance(value, keras.Model) and (sequential or value.inputs):
            return
        if parent_kind(value).name == "feature_normalization" and value.built:
            # Constants of the compiled step, computed from the variables.
            self.visit(f"{path}.adapted_mean", value.mean)
            self.visit(f"{path}.adapted_variance", value.variance)
        if library and hasattr(value, "get_config"):
            self.configuration(path, value)
            return
        if library and not isinstance(value, keras.Layer):
            self.result[path] = (_class_name(type(value)), _Identity(value))
        if not library:
            self.attributes(path, value)

    def attributes(self, path: str, value: Any) -> None:
        """Adds the attributes of an object, without those of every layer or model."""
        inherited = _inherited_attributes(value)
        own = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in inherited}
        if not own and not hasattr(value, "__dict__"):
            # An opaque object is compared by its own __eq__ (a range, a dtype, a path) or, without
            # one, by identity (`...`, an object of a C extension).
            has_eq = type(value).__eq__ is not object.__eq__ and type(value).__hash__ is not None
            self.result[path] = (_class_name(type(value)), value if has_eq else _Identity(value))
        for name, attribute in own.items():
            self.visit(f"{path}.{name}", attribute)

    def graph(self, path: str, model: keras.Model) -> None:
        """Adds the layers of `model` and the edges of its graph."""
        if functional_part(model) is None:
            self.entries(f"{path}.layers", [(layer.name, layer) for layer in model.layers])
            return
        graph = Graph(model)
        made = [*graph.inputs, *(t for call in graph.calls for t in call.outputs)]
        sources = {id(t): f"tensor {i}" for i, t in enumerate(made)}
        for layer in graph.input_layers:
            self.visit(f"{path}.layer.{layer.name}", layer)
        for i, call in enumerate(graph.calls):
            self.visit(f"{path}.layer.{call.operation.name}", call.operation)
            self.result[f"{path}.call.{i}"] = call.operation.name
            self.visit(f"{path}.call.{i}.arguments", call.filled_in(sources))
        self.visit(f"{path}.outputs", [sources[id(t)] for t in graph.outputs])

    def configuration(self, path: str, value: Any) -> None:
        """Adds the configuration of an object, without mutable hyperparameters."""
        try:
            config = value.get_config() | vocabulary_of(value)
        except (NotImplementedError, TypeError, ValueError):
            self.attributes(path, value)  # An argument cannot be serialized.
            return
        for key, entry in config.items():
            if key == "seed" or key.endswith("_initializer"):
                continue
            is_penalty = id(value) in self.mutable and key in PENALTY_ARGUMENTS[type(value)]
            if is_penalty or is_mutable(value, key):
                self.result[f"{path}.{key}"] = "mutable"
            elif isinstance(entry, dict):
                self.visit(f"{path}.{key}", _unsaved(value, key, entry))
            else:
                self.visit(f"{path}.{key}", entry)


def is_mutable(value: Any, name: str) -> bool:
    """Whether the argument `name` of `value` is held in a variable."""
    if isinstance(value, MutableOptimizer):
        return name in value.mutable_hyperparameters
    if isinstance(value, MutableRateLayer) and name == "rate":
        return True
    if isinstance(value, keras.optimizers.Optimizer) and name != "learning_rate":
        return False
    if isinstance(value, keras.optimizers.Optimizer | keras.Layer):
        return isinstance(getattr(value, name, None), keras.Variable)
    return False


def _unsaved(value: Any, name: str, saved: Any) -> Any:
    """Returns the argument `name` of `value`, which its configuration serializes as `saved`."""
    if not isinstance(value, keras.optimizers.Optimizer):
        return getattr(value, name, saved)
    if isinstance(getattr(value, name, None), keras.optimizers.Optimizer):
        return getattr(value, name)
    # The attribute is the value of a schedule in this step; what counts is the schedule.
    if name == "learning_rate":
        return learning_rate_source(value)
    return getattr(value, getattr(getattr(type(value), name, None), "attribute", ""), saved)


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_library(module: str | None) -> bool:
    """Whether the classes of `module` are described by their configuration."""
    return str(module).split(".")[0] in ("keras", "kerastools", "tensorflow", "jax", "numpy")


def _is_installed(module: str | None) -> bool:
    """Whether `module` is in Python or an installed package, whose code never changes."""
    package = str(module).split(".")[0]
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    known = package in sys.stdlib_module_names or _is_library(module)
    return known or "site-packages" in path or "dist-packages" in path


def _names(code: types.CodeType) -> Iterator[str]:
    """Returns the names that a code object reads, with those of nested functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


class _Identity:
    """Compares an object by identity, and keeps it, so that its id is not used again."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"another {type(self.value).__name__}"


@functools.cache
def _attributes(base: type) -> frozenset[str]:
    plain = [base(name="plain")]
    if issubclass(base, keras.Model):
        plain[0].compile("sgd", "mse")
        x = keras.Input((1,), name="plain")
        plain.append(keras.Model(x, x, name="plain"))
    return frozenset().union(*map(vars, plain))


def _inherited_attributes(value: Any) -> frozenset[str]:
    """Returns the names of the attributes that every layer or model has."""
    bases = (keras.Sequential, keras.Model, keras.Layer)
    base = next((base for base in bases if isinstance(value, base)), None)
    return _attributes(base) if base else frozenset()


def vocabulary_of(layer: Any) -> dict[str, Any]:
    """Returns the vocabulary of an adapted lookup layer, which `get_config` leaves out."""
    if parent_kind(layer).name != "vocabulary" or layer.get_config()["vocabulary"] is not None:
        return {}
    words = np.asarray(layer.get_vocabulary(include_special_tokens=False)).tolist()
    if not words:
        return {}
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    if "idf_weights" not in store:
        return {"vocabulary": words}
    special = layer.vocabulary_size() - len(words)
    weights = store["idf_weights"][special : special + len(words)]
    return {"vocabulary": words, "idf_weights": weights.tolist()}
