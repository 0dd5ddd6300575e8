import os
import subprocess
import sys

import pytest

import kerastools


def run(code):
    env = os.environ | {"KERAS_BACKEND": "jax"}  # TensorFlow takes long to import.
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env
    )


@pytest.mark.tensorflow  # Importing is the same on both.
def test_import_leaves_optional_dependencies_alone_and_rooms_are_reached_as_attributes():
    rooms = ", ".join(f"kerastools.{name}" for name in kerastools.__all__)
    run(
        "import sys, keras\n"  # Keras itself imports what it finds of these.
        "before = set(sys.modules)\n"
        "import kerastools\n"
        "added = set(sys.modules) - before\n"
        "heavy = {'keras_tuner', 'optuna', 'matplotlib', 'sklearn', 'tokenizers', 'tensorboard'}\n"
        "assert not heavy & added, heavy & added\n"
        f"[{rooms}]\n"
        "assert 'keras_tuner' in sys.modules\n"
    )


def test_an_unknown_room_is_an_attribute_error():
    with pytest.raises(AttributeError, match="attic"):
        kerastools.attic  # noqa: B018
