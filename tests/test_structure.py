"""How many files of the package a reader opens to follow one function.

What a module imports, and what that imports, inside functions too; packages' `__init__.py` are
counted where something is imported from them.
"""

import ast
from pathlib import Path

import pytest

import kerastools

ROOT = Path(kerastools.__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.glob("kerastools/**/*.py")
}
# The module, the function in it that a reader follows, and the most files that it may take.
LIMITS = {
    "kerastools.optimizers._adam": ("Adam.update_step", 12),
    "kerastools.callbacks._freeze.freeze_schedule": ("FreezeSchedule.on_epoch_begin", 24),
    "kerastools.folding._fold_batch_norm": ("fold_batch_norm", 14),
}


def imported(name):
    """Returns the modules of the package that `name` imports anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def files_to_open(name):
    """Returns `name` and every module of the package that it reaches."""
    seen, left = set(), [name]
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left += imported(module)
    return seen


@pytest.mark.parametrize("module", LIMITS)
def test_one_function_is_followed_in_few_files(module):
    function, limit = LIMITS[module]
    files = files_to_open(module)
    print(f"{function}: {len(files)} files (at most {limit})")
    assert len(files) <= limit, sorted(files)
