"""Outside `_core/keras_private` nothing of Keras, keras-tuner or TensorFlow is used privately."""

import ast
import importlib
import pkgutil
from pathlib import Path

import keras
import pytest

import kerastools

PACKAGE = Path(kerastools.__file__).parent
DOOR = PACKAGE / "_core" / "keras_private"
PRIVATE_MODULES = (
    "keras.src",
    "keras_tuner.src",
    "tensorflow.compiler",
    "tensorflow.core",
    "tensorflow.python",
    "tf.python",
)
# Names that Keras has too, on objects of ours.
OURS = {("search/_stacked/stacked_update.py", "self.optimizer._kernel")}


def trees():
    return {path: ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_attributes(tree):
    """Returns the underscored names that the classes of a module define."""
    names = set()
    for cls in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for node in ast.walk(cls):
            if isinstance(node, ast.FunctionDef) and node is not cls:
                names.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.update([node.attr] if is_self(node.value) else [])
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.keyword) and node.arg:
                names.add(node.arg)
    return set(filter(is_private, names))


def is_self(node):
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def private_uses(tree, own, of_keras):
    """Yields (line, what) for each use of a name that is not public and not ours."""
    suffixes = {getattr(a, "value", "") for b in ast.walk(tree) for a in suffixes_in(b)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if not node.module.startswith("kerastools"):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                private = any(is_private(alias.name) for alias in node.names)
                if private or any(is_below_private(name) for name in names):
                    yield node.lineno, names[-1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if is_below_private(alias.name):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            if name in PRIVATE_MODULES:
                yield node.lineno, name
            elif is_private(node.attr) and (
                node.attr not in own or (node.attr in of_keras and not is_self(node.value))
            ):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant) and node.value in of_keras - own - suffixes:
            yield node.lineno, repr(node.value)


def suffixes_in(node):
    """Returns the texts in a node that are added to others or looked for at their ends."""
    if isinstance(node, ast.JoinedStr):
        return node.values
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    methods = ("startswith", "endswith", "removeprefix", "removesuffix")
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in methods:
        return node.args
    return []


def is_below_private(module):
    return any(f"{module}.".startswith(f"{name}.") for name in PRIVATE_MODULES)


@pytest.fixture(scope="module")
def of_keras():
    """The underscored attributes of what Keras and keras-tuner hand out and let subclass."""
    inputs = keras.Input((2,))
    dense = keras.layers.Dense(1)
    model = keras.Model(inputs, keras.layers.BatchNormalization()(dense(inputs)))
    model.compile("adam", "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    objects = [
        inputs, dense, dense.kernel, model, *model.layers, model.optimizer,
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]),
        keras.callbacks.Callback(), keras.callbacks.CallbackList(), keras.losses.Loss(),
        keras.metrics.Mean(), keras.initializers.Zeros(), keras.utils.PyDataset(),
        keras.random.SeedGenerator(0), model.get_compile_config,
    ]  # fmt: skip
    names = {name for thing in objects for name in [*dir(thing), *vars(thing)]}
    if keras.backend.backend() == "tensorflow":
        import keras_tuner

        names.update(*map(dir, (keras_tuner.Oracle, keras_tuner.Tuner, keras_tuner.HyperModel)))
        names.update(vars(keras_tuner.HyperParameters()))
    return set(filter(is_private, names))


def test_private_names_are_used_behind_the_door_only(of_keras):
    files = trees()
    own = set().union(*map(own_attributes, files.values()))
    found = []
    for path, tree in files.items():
        name = path.relative_to(PACKAGE).as_posix()
        if DOOR not in path.parents:
            uses = set(private_uses(tree, own, of_keras))
            found += [f"{name}:{line} {use}" for line, use in uses if (name, use) not in OURS]
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize(
    "code",
    [
        "import keras.src.layers",
        "from keras.src import tree",
        "from keras import src",
        "from keras_tuner.src.engine.trial import Trial",
        "from tensorflow.python.eager import context",
        "from keras.layers import _hidden",
        "keras.src.backend",
        "layer._inbound_nodes",
        "self._try_run_and_update_trial()",
        "optimizer._variables",
        "getattr(model, '_functional')",
        "vars(optimizer)['_trainable_variables']",
    ],
)
def test_the_door_is_seen_to_be_passed_by(code, of_keras):
    assert list(private_uses(ast.parse(code), {"_variables"}, of_keras))


def test_what_is_ours_or_public_is_let_through(of_keras):
    code = "from kerastools._core import x; self._mine; other._mine; value.__class__; f('_suffix')"
    assert not list(private_uses(ast.parse(code), {"_mine"}, of_keras))


def test_no_class_of_ours_replaces_a_private_method_of_its_base():
    search = keras.backend.backend() == "tensorflow"
    for module in pkgutil.walk_packages(kerastools.__path__, "kerastools."):
        if search or not module.name.startswith("kerastools.search"):
            importlib.import_module(module.name)
    replaced = {
        f"{cls.__module__}.{cls.__name__}": sorted(names)
        for cls in subclasses(object)
        if is_ours(cls) and not cls.__module__.startswith("kerastools._core.keras_private")
        for base in cls.__mro__
        if is_foreign(base) and (names := set(filter(is_private, vars(cls))) & set(dir(base)))
    }
    assert replaced == {}


def is_ours(cls):
    return str(cls.__module__).startswith("kerastools.")


def is_foreign(cls):
    return str(cls.__module__).partition(".")[0] in ("keras", "keras_tuner", "tensorflow")


def subclasses(cls):
    for sub in type.__subclasses__(cls):
        yield sub
        yield from subclasses(sub)
