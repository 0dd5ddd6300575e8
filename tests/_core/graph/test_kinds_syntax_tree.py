"""No file but `kinds.py` says what a layer of Keras is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest

import kerastools
from kerastools._core.graph.kinds import KINDS, UNKNOWN

PACKAGE = Path(kerastools.__file__).parent
QUESTIONS = ("is_kind", "layer_classes", "kind")
CATALOGUE = "_core/graph/kinds.py"
# What may say which of Keras's layers it has a rule for: by decorating or keying the rule.
RULES = ("folding/_algebra/", "search/_stacked/rules/")
NO_KINDS = {"Layer", "InputSpec"}
LAYER_NAMES = {
    name
    for name in dir(keras.layers)
    if isinstance(getattr(keras.layers, name), type) and name not in NO_KINDS
}


class Reader:
    """Finds in one module every look at a layer class of Keras, and at the name of a class."""

    def __init__(self, source: str, has_rules: bool = False) -> None:
        self.tree = ast.parse(source)
        self.has_rules = has_rules
        self.parents = {
            child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)
        }
        self.names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    full = alias.name if alias.asname else alias.name.split(".")[0]
                    self.names[alias.asname or full] = full
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def findings(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            reason = self._class(node) or self._dynamic(node) or self._name_of_class(node)
            reason = reason or self._compared_name(node)
            if reason:
                yield f"{node.lineno}: {reason}"

    def _path(self, node: ast.AST) -> str:
        """Returns the dotted path behind `node` with import aliases resolved, or ""."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, "")
        if isinstance(node, ast.Attribute):
            inner = self._path(node.value)
            return f"{inner}.{node.attr}" if inner else ""
        return ""

    def _class(self, node: ast.AST) -> str:
        if not isinstance(node, ast.Name | ast.Attribute):
            return ""
        module, _, name = self._path(node).rpartition(".")
        if name not in LAYER_NAMES or not is_keras_layers(module) or self._constructs(node):
            return ""
        return "" if self.has_rules and self._registers(node) else f"keras.layers.{name}"

    def _constructs(self, node: ast.AST) -> bool:
        """Whether `node`, a class, is called, subclassed, or made from a configuration."""
        parent = self.parents[node]
        if isinstance(parent, ast.Attribute) and parent.attr == "from_config":
            node, parent = parent, self.parents[parent]
        if isinstance(parent, ast.Call):
            return parent.func is node
        return isinstance(parent, ast.ClassDef) and node in parent.bases

    def _registers(self, node: ast.AST) -> bool:
        """Whether `node` decorates a rule or is its key in a table."""
        parent = self.parents[node]
        if isinstance(parent, ast.Dict):
            return node in parent.keys
        if not isinstance(parent, ast.Call):
            return False
        owner = self.parents[parent]
        return isinstance(owner, ast.FunctionDef | ast.ClassDef) and parent in owner.decorator_list

    def _dynamic(self, node: ast.AST) -> str:
        """Finds `getattr(keras.layers, name)` where what it returns is not called at once."""
        if not isinstance(node, ast.Call) or not node.args:
            return ""
        if not isinstance(node.func, ast.Name) or node.func.id not in ("getattr", "vars", "dir"):
            return ""
        if not is_keras_layers(self._path(node.args[0])) or self._constructs(node):
            return ""
        return f"{node.func.id}(keras.layers)"

    def _name_of_class(self, node: ast.AST) -> str:
        """Finds the name of a class where it is not only shown, or handed on to be shown."""
        if not isinstance(node, ast.Attribute) or node.attr not in ("__name__", "__qualname__"):
            return ""
        owner = node.value
        of_type = isinstance(owner, ast.Call) and getattr(owner.func, "id", "") == "type"
        if of_type and getattr(owner.args[0], "id", "") == "self":
            return ""
        if not of_type and getattr(owner, "attr", "") != "__class__":
            return ""
        # `getattr(x, "__name__", type(x).__name__)`, `a or type(x).__name__.lower()`.
        while self._is_same_text(parent := self.parents[node]):
            node = parent
        shown = isinstance(parent, ast.FormattedValue | ast.Return | ast.keyword) or (
            isinstance(parent, ast.ListComp | ast.GeneratorExp) and parent.elt is node
        )
        if isinstance(parent, ast.Call) and parent.func is not node:
            called = getattr(parent.func, "attr", getattr(parent.func, "id", ""))
            shown = called == "format" or called[0].isupper()
        return "" if shown else "the name of a class"

    def _compared_name(self, node: ast.AST) -> str:
        """Finds a text that is the name of a layer class, where something is compared with it."""
        if not isinstance(node, ast.Constant) or node.value not in LAYER_NAMES:
            return ""
        owner = self.parents[node]
        if isinstance(owner, ast.Tuple | ast.List | ast.Set):
            owner = self.parents[owner]
        return repr(node.value) if isinstance(owner, ast.Compare | ast.MatchValue) else ""

    def _is_same_text(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute):
            return node.attr == "lower"
        if isinstance(node, ast.Call):
            return getattr(node.func, "attr", getattr(node.func, "id", "")) in (
                "getattr",
                "lower",
                "str",
            )
        return isinstance(node, ast.BoolOp | ast.IfExp)


def is_keras_layers(module: str) -> bool:
    return module == "keras.layers" or module.startswith("keras.src.layers")


def findings(path: Path) -> list[str]:
    inside = path.relative_to(PACKAGE).as_posix()
    return list(Reader(path.read_text(), inside.startswith(RULES)).findings())


def test_only_kinds_knows_the_layer_classes_of_keras():
    paths = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    found = {name: findings(path) for name, path in paths.items() if name != CATALOGUE}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_kind_that_is_asked_for_exists():
    names = {n for k in [*KINDS.values(), UNKNOWN] for n in (k.name, k.group)}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in QUESTIONS:
                asked = {a.value for a in node.args if isinstance(a, ast.Constant)}
                assert asked <= names, path


@pytest.mark.parametrize(
    "source",
    [
        "import keras\nisinstance(x, keras.layers.Dense)",
        "import keras as k\ntype(x) is k.layers.Dense",
        "from keras import layers as parts\nTABLE = {parts.Dense: 1}",
        "import keras.layers as parts\nparts.Dense",
        "from keras.layers import Dense as Plain\nisinstance(x, (Plain, int))",
        "import keras\ngetattr(keras.layers, 'Dense')",
        "import keras\nissubclass(cls, keras.layers.Dense)",
        "import keras\nkeras.layers.Dense.call",
        "'Dense' in type(x).__name__",
        "type(x).__name__ == 'Dense'",
        "x.__class__.__name__.startswith('Conv')",
        "name = type(x).__name__",
        "outcome.kind in ('Dense', 'Conv2D')",
        "match x:\n    case keras.layers.Dense():\n        pass\nimport keras",
    ],
)
def test_every_look_at_a_class_is_found(source):
    assert list(Reader(source).findings())


@pytest.mark.parametrize(
    "source",
    [
        "import keras\nkeras.layers.Dense(3)",
        "import keras\ngetattr(keras.layers, f'Conv{n}D')(3, 3)",
        "import keras\nkeras.layers.Dense.from_config({})",
        "import keras\nclass Own(keras.layers.Dense):\n    pass",
        "import keras\nisinstance(x, keras.layers.Layer)",
        "f'Received {type(x).__name__}.'",
        "', '.join(type(x).__name__ for x in xs)",
    ],
)
def test_making_and_showing_layers_is_allowed(source):
    assert not list(Reader(source).findings())


def test_rules_may_be_registered_but_not_tested_for():
    table = "import keras\nTABLE = {keras.layers.Dense: 1}"
    rule = "import keras\n@rule(keras.layers.Dense)\ndef dense(x):\n    return x"
    test = "import keras\nisinstance(x, keras.layers.Dense)"
    assert not list(Reader(table, has_rules=True).findings())
    assert not list(Reader(rule, has_rules=True).findings())
    assert list(Reader(test, has_rules=True).findings())
