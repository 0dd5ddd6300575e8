"""Stacking rules: how each class of layer is computed for K models at once."""

# Importing a file registers its rules.
from kerastools.search._stacked.rules import convolution as convolution
from kerastools.search._stacked.rules import dense as dense
from kerastools.search._stacked.rules import elementwise as elementwise
from kerastools.search._stacked.rules import normalization as normalization
from kerastools.search._stacked.rules import recurrent as recurrent
from kerastools.search._stacked.rules import rows as rows
from kerastools.search._stacked.rules.registry import find_rule, one_by_one, stacks

__all__ = ["find_rule", "one_by_one", "stacks"]
