"""Transfer learning: reuse layers, cache features, fine-tune, search the reuse depth."""

from kerastools.transfer._depth.reuse_depth import ReuseDepth
from kerastools.transfer._depth.search_reuse_depth import search_reuse_depth
from kerastools.transfer._features.feature_cache import FeatureCache
from kerastools.transfer._fine_tune import FineTuning, fine_tune
from kerastools.transfer._reuse_layers import reuse_layers
from kerastools.transfer._schedules import (
    discriminative,
    gradual,
    layer_groups,
    linear_probe_then_fine_tune,
    surgical,
)

__all__ = [
    "FeatureCache",
    "FineTuning",
    "ReuseDepth",
    "discriminative",
    "fine_tune",
    "gradual",
    "layer_groups",
    "linear_probe_then_fine_tune",
    "reuse_layers",
    "search_reuse_depth",
    "surgical",
]
