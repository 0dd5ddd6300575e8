"""Docstrings and signatures as the reference's generator wants them."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

_ROOT = Path(__file__).parents[1]

_EXAMPLE = re.compile(r"^Example:\n\n(?=>>> )", re.MULTILINE)
_CALL_ARGUMENTS = re.compile(r"^Call arguments:\n((?: .*\n?)+)", re.MULTILINE)
_NAME = re.compile(r"(?<![\[`])`(kerastools\.[a-z]+\.[A-Za-z]\w*)`")


class Docstrings(griffe.Extension):
    """Rewrites Keras's sections, links names of the package, spells **kwargs out."""

    def on_package(self, *, pkg: Any, **kwargs: Any) -> None:
        """Is called with the whole package, before it is rendered."""
        for obj in _objects(pkg):
            if obj.docstring:
                text = with_texts(obj.docstring.value) if "{{" in obj.docstring.value else None
                obj.docstring.value = rewritten(text or obj.docstring.value)
            if obj.is_class:
                _name_keywords(obj)
                _hide_overrides(obj)


def with_texts(text: str) -> str:
    """Returns a docstring of an optimizer with the texts that all of them share."""
    path = _ROOT / "kerastools/optimizers/_base/arguments.py"
    spec: Any = importlib.util.spec_from_file_location("arguments", path)
    arguments = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(arguments)
    return arguments.with_texts(text)


def rewritten(text: str) -> str:
    """Returns a docstring with its doctest in a section and its names as links."""
    before, *after = _EXAMPLE.split(text, maxsplit=1)
    if after:
        # The doctest ends where text begins again after an empty line.
        doctest, *rest = re.split(r"\n\n(?=[A-Z])", after[0].rstrip(), maxsplit=1)
        indented = doctest.replace("\n", "\n    ")
        before += f"Examples:\n    {indented}\n" + "".join(f"\n{part}\n" for part in rest)
    before = _CALL_ARGUMENTS.sub(lambda m: f"Call arguments:\n{_bullets(m[1])}", before)
    return _NAME.sub(r"[`\1`][\1]", before)


def _bullets(block: str) -> str:
    return re.sub(r"^ {4}(\w+):", r"    - `\1`:", block, flags=re.MULTILINE)


def _objects(obj: Any) -> Iterator[Any]:
    for member in obj.members.values():
        if not member.is_alias:
            yield member
            yield from _objects(member)


def _name_keywords(cls: Any) -> None:
    """Puts the keywords that a base class of the package takes in place of `**kwargs`."""
    init = cls.members.get("__init__")
    bases = [base.members.get("__init__") for base in cls.mro()]
    if init is None or init.is_alias or "kwargs" not in init.parameters:
        return
    given = {p.name: p for p in init.parameters if p.name not in ("args", "kwargs")}
    for parameter in [p for base in bases if base for p in base.parameters]:
        is_keyword = parameter.default is not None and parameter.name not in ("args", "kwargs")
        if is_keyword:
            given.setdefault(parameter.name, parameter)
    # In the order in which they can be given: by position, then by keyword.
    by_keyword = [p for p in given.values() if p.kind is griffe.ParameterKind.keyword_only]
    by_position = [p for p in given.values() if p not in by_keyword]
    # What takes *args too hands all on to a base of the package: no keyword is left to tell.
    rest = [] if "args" in init.parameters else [init.parameters["kwargs"]]
    init.parameters = griffe.Parameters(*by_position, *by_keyword, *rest)


def _hide_overrides(cls: Any) -> None:
    """Leaves out the methods that a base class of the package calls; they are not for users."""
    inherited = {name for base in cls.mro() for name in base.members}
    for name in [n for n in cls.members if n in inherited and not n.startswith("__")]:
        del cls.members[name]
