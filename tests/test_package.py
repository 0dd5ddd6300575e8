import subprocess
import sys

import pytest

import kerastools


def run(code):
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)


def test_import_leaves_optional_dependencies_alone():
    run(
        "import sys, kerastools\n"
        "heavy = {'keras_tuner', 'matplotlib', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )


def test_every_room_is_reached_as_an_attribute():
    names = ", ".join(f"kerastools.{room}" for room in kerastools.__all__)
    run(f"import kerastools; [{names}]")


def test_an_unknown_room_is_an_attribute_error():
    with pytest.raises(AttributeError, match="attic"):
        kerastools.attic  # noqa: B018
