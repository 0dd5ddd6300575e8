"""Keras's optimizers with mutable hyperparameters, and others."""

from kerastools.optimizers._adagrad import Adagrad
from kerastools.optimizers._adam import Adam, AdamW
from kerastools.optimizers._adamax import Adamax
from kerastools.optimizers._group_builders import layer_decay_groups, no_decay_groups
from kerastools.optimizers._lookahead import Lookahead
from kerastools.optimizers._nadam import Nadam
from kerastools.optimizers._optax import from_optax, to_optax
from kerastools.optimizers._param_group import ParamGroup
from kerastools.optimizers._radam import RAdam
from kerastools.optimizers._rebind import rebind
from kerastools.optimizers._rmsprop import RMSprop
from kerastools.optimizers._sam import SAM
from kerastools.optimizers._schedule_free_adamw import ScheduleFreeAdamW
from kerastools.optimizers._sgd import SGD

__all__ = [
    "SAM",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lookahead",
    "Nadam",
    "ParamGroup",
    "RAdam",
    "RMSprop",
    "ScheduleFreeAdamW",
    "from_optax",
    "layer_decay_groups",
    "no_decay_groups",
    "rebind",
    "to_optax",
]
