"""How each kind of layer computes for many models at once, one file per kind."""

# Importing a file enters its layers.
from kerastools.search._stacked.rules import activation as activation
from kerastools.search._stacked.rules import convolution as convolution
from kerastools.search._stacked.rules import dense as dense
from kerastools.search._stacked.rules import dropout as dropout
from kerastools.search._stacked.rules import embedding as embedding
from kerastools.search._stacked.rules import max_pooling as max_pooling
from kerastools.search._stacked.rules import normalization as normalization
from kerastools.search._stacked.rules import recurrent as recurrent
from kerastools.search._stacked.rules import rows as rows
from kerastools.search._stacked.rules.one_by_one import one_by_one
from kerastools.search._stacked.rules.registry import find_rule, stacks

__all__ = ["find_rule", "one_by_one", "stacks"]
