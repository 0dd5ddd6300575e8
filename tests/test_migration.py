"""Every line on the right of the migration table runs."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.tensorflow

TEXT = (Path(__file__).parents[1] / "docs" / "migration.md").read_text()
LINES = re.findall(r"^\| .*\| `(.+)` \|$", TEXT, re.MULTILINE)


def test_every_row_has_one_line_of_code_on_the_right():
    rows = re.findall(r"^\|.*\|$", TEXT, re.MULTILINE)
    headers = [row for row in rows if row.startswith(("| before", "|---"))]
    assert len(LINES) == len(rows) - len(headers) > 40


@pytest.fixture(scope="module")
def names():
    block = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)[1]
    namespace: dict = {}
    exec(block, namespace)
    return namespace


# The model is trained by the lines before, and may have nothing left to learn; the fit is short.
@pytest.mark.filterwarnings("ignore:LearningRateFinder s")
@pytest.mark.parametrize("line", LINES)
def test_line_runs(line, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value = eval(line, names)
    if isinstance(value, names["keras"].callbacks.Callback):
        names["model"].fit(names["x"], names["y"], batch_size=4, verbose=0, callbacks=[value])
    elif isinstance(value, names["keras"].optimizers.Optimizer):
        weights = names["model"].trainable_variables
        value.build(weights)
        value.apply([0.01 * w for w in weights], weights)
