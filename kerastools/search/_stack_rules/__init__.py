"""How each kind of layer computes for many models at once, one file per kind."""

# Importing a file enters its layers.
from kerastools.search._stack_rules import _activation as _activation
from kerastools.search._stack_rules import _convolution as _convolution
from kerastools.search._stack_rules import _dense as _dense
from kerastools.search._stack_rules import _dropout as _dropout
from kerastools.search._stack_rules import _embedding as _embedding
from kerastools.search._stack_rules import _max_pooling as _max_pooling
from kerastools.search._stack_rules import _normalization as _normalization
from kerastools.search._stack_rules import _recurrent as _recurrent
from kerastools.search._stack_rules import _rows as _rows
from kerastools.search._stack_rules._one_by_one import one_by_one
from kerastools.search._stack_rules._registry import find_rule, stacks

__all__ = ["find_rule", "one_by_one", "stacks"]
