"""A plugin of pytest that puts classes of this package in the place of Keras's, for Keras's tests.

`pytest -p tests.peers.replaced` lets the test modules that Keras installs test them.
"""

import os
import sys
import types

import keras
import pytest
from keras.src import constraints, initializers, layers, optimizers
from keras.src.trainers.trainer import Trainer

import kerastools
from kerastools.acceleration import _accelerate

# Where Keras's tests import the classes from; optimizers and dropouts have a module each.
PLACES = {
    "optimizers": (keras.optimizers, optimizers),
    "layers": (keras.layers, layers),
    "constraints": (keras.constraints, constraints),
    "initializers": (keras.initializers, initializers),
}


def replace_classes():
    """Gives every name that this package has too, wherever Keras has it, the class of ours."""
    twins = {}
    for room, places in PLACES.items():
        ours = getattr(kerastools, room)
        names = [name for name in ours.__all__ if hasattr(places[0], name)]
        twins |= {getattr(places[0], name): getattr(ours, name) for name in names}
    # It takes another rule, the authors', and is no twin.
    twins.pop(keras.optimizers.ScheduleFreeAdamW, None)
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "keras" and module is not None:
            for attribute, value in list(vars(module).items()):
                if isinstance(value, type) and value in twins:
                    setattr(module, attribute, twins[value])
    for table in (optimizers.ALL_OBJECTS_DICT, constraints.ALL_OBJECTS_DICT):
        table.update({key: twins.get(value, value) for key, value in table.items()})
    initializers.ALL_OBJECTS_DICT.update(
        {k: twins.get(v, v) for k, v in initializers.ALL_OBJECTS_DICT.items()}
    )


def accelerate_all():
    """Lets `compile` accelerate each model, with `steps_per_execution` as the steps of a call."""
    plain = Trainer.compile

    def compile(self, *args, steps_per_execution=1, **kwargs):
        plain(self, *args, **kwargs)
        if not self.run_eagerly:
            steps = "auto" if steps_per_execution == 1 else steps_per_execution
            kerastools.acceleration.accelerate(self, steps)

    _accelerate.require_model = lambda model, caller: None  # Keras's tests have bare trainers.
    Trainer.compile = compile


def conftest():
    """Returns what Keras's tests import of a file that is not installed."""
    module = types.ModuleType("conftest")
    module.skip_if_backend = lambda backend, reason: pytest.mark.skipif(
        keras.backend.backend() == backend, reason=reason
    )
    return module


def pytest_configure(config):
    sys.modules["conftest"] = conftest()
    replace_classes()
    if os.environ.get("KERASTOOLS_ACCELERATES"):
        accelerate_all()
    for mark in ("requires_trainable_backend", "multi_device", "requires_tpu", "requires_gpu"):
        config.addinivalue_line("markers", f"{mark}: of Keras")
