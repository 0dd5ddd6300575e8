"""The reference has every public name, with its equation, arguments and example."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import kerastools

pytestmark = pytest.mark.tensorflow  # It reads files; once is enough.

ROOT = Path(__file__).parents[1]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_of_every_room_has_its_directive():
    hooks = load("_hooks")
    rooms = hooks.rooms()
    inner = [room.removeprefix("kerastools.") for room in rooms if room != "kerastools"]
    assert sorted([*rooms["kerastools"][1], *inner]) == sorted(kerastools.__all__)
    for room, (docstring, names) in rooms.items():
        if room != "kerastools":
            assert names == importlib.import_module(room).__all__
        directives = re.findall(r"^::: (\S+)$", hooks.page(room, docstring, names), re.MULTILINE)
        assert directives == [f"{room}.{name}" for name in names]


def test_doctests_become_a_section_and_names_become_links():
    text = "Does it, as `kerastools.layers.Dropout`.\n\nExample:\n\n>>> 1 + 1\n2\n\nReference: a.\n"
    name = "kerastools.layers.Dropout"
    assert load("_docstrings").rewritten(text) == (
        f"Does it, as [`{name}`][{name}].\n\nExamples:\n    >>> 1 + 1\n    2\n\nReference: a.\n"
    )


def test_call_arguments_become_a_list():
    text = "Call arguments:\n    inputs: A tensor\n        of rank 2.\n    training: Or.\n\nx"
    assert load("_docstrings").rewritten(text) == (
        "Call arguments:\n    - `inputs`: A tensor\n        of rank 2.\n    - `training`: Or.\n\nx"
    )


def test_optimizers_show_the_texts_that_they_share():
    docstring = "Args:\n    {{learning_rate}}\n    {{common_arguments}}\n"
    text = load("_docstrings").with_texts(docstring)
    assert "{{" not in text
    arguments = re.findall(r"^    (\w+): ", text, re.MULTILINE)
    assert arguments[:2] == ["learning_rate", "weight_decay"]
    assert arguments[-1] == "param_groups"
