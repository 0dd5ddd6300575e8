"""Builders of `FreezeSchedule`s: gradual unfreezing and other schedules of the literature."""

from itertools import pairwise
from typing import Any

import keras

from kerastools._core.checks import require_built
from kerastools._core.graph.layer_tree import LayerTree
from kerastools.callbacks import FreezeSchedule, Phase


def layer_groups(model: keras.Model, num_groups: int = 4, head: Any = None) -> list[list[str]]:
    """Returns the layers that have weights in groups, from the head down to the input.

    The first group is the head. The layers below are split into `num_groups` groups of about equal
    size, each normalization layer with the layer below it.

    Args:
        model: A built model.
        num_groups: Number of groups below the head, >= 1.
        head: The layers of the head, as for `Phase`. By default those above the last nested model,
            or the last layer that has weights.

    Returns:
        Lists of paths of layers.

    Raises:
        ValueError: If the model is not built, the head is not found or is the whole model, or
            `num_groups` is not between 1 and the number of layers below the head.

    Example:

    >>> layers = [keras.layers.Dense(4, name=name) for name in ("a", "b", "c", "classes")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> layer_groups(model, num_groups=2)
    [['classes'], ['c'], ['a', 'b']]
    """
    return _groups(model, num_groups, head, "layer_groups")


def gradual(
    model: keras.Model,
    num_groups: int = 4,
    epochs: int = 1,
    layer_decay: float | None = 1 / 2.6,
    head: Any = None,
    batch_norm: str = "inference",
) -> FreezeSchedule:
    """Gradual unfreezing: a schedule that trains the head, then unfreezes the layers below it.

    For tasks with few labels. Each group is unfrozen after those above it have been trained, at a
    smaller learning rate, so that the lower layers keep what they have learned.

    Args:
        model: The built model to train.
        num_groups: Number of groups to unfreeze, from the top down.
        epochs: Number of epochs of each phase; the last one, with all layers, lasts to the end.
        layer_decay: Learning rate of each group relative to the group above it.
        head: The layers that train first; see `layer_groups`.
        batch_norm: See `kerastools.callbacks.FreezeSchedule`.

    Returns:
        A `kerastools.callbacks.FreezeSchedule` of 1 + `num_groups` phases.

    Raises:
        ValueError: Like `layer_groups`, or if `epochs` or `layer_decay` is invalid.

    Example:

    >>> layers = [keras.layers.Dense(4, name=name) for name in ("a", "b", "c", "classes")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> print(gradual(model, num_groups=2, layer_decay=0.4))
    FreezeSchedule, batch_norm="inference"
    phase   layers             lasts        learning rate
    ──────────────────────────────────────────────────────────────
        1   classes            1 epoch      × 1, × 0.4 per level
        2   classes, c         1 epoch      × 1, × 0.4 per level
        3   classes, c, a, b   to the end   × 1, × 0.4 per level

    Reference: Howard and Ruder, "Universal language model fine-tuning for text classification",
    ACL 2018.
    """
    groups = _groups(model, num_groups, head, "gradual")
    phases = [
        Phase(groups[: i + 1], epochs if i < num_groups else None, layer_decay=layer_decay)
        for i in range(num_groups + 1)
    ]
    return FreezeSchedule(phases, batch_norm)


def linear_probe_then_fine_tune(
    model: keras.Model,
    epochs: int = 5,
    lr_multiplier: float = 0.1,
    head: Any = None,
    batch_norm: str = "inference",
) -> FreezeSchedule:
    """Linear probing, then fine-tuning (LP-FT): trains the head, then all layers at a lower rate.

    Fine-tuning with a random head distorts the pretrained features while the head is wrong. With a
    trained head it keeps more of them, which improves accuracy under distribution shift.

    Args:
        model: The built model to train.
        epochs: Number of epochs of the head alone.
        lr_multiplier: Learning rate of the second phase, relative to the optimizer's.
        head: The layers of the head; see `layer_groups`.
        batch_norm: See `kerastools.callbacks.FreezeSchedule`.

    Returns:
        A `kerastools.callbacks.FreezeSchedule` of two phases.

    Raises:
        ValueError: Like `layer_groups`, or if `epochs` or `lr_multiplier` is invalid.

    Example:

    >>> layers = [keras.layers.Dense(4, name=name) for name in ("a", "classes")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> print(linear_probe_then_fine_tune(model, epochs=3))
    FreezeSchedule, batch_norm="inference"
    phase   layers    lasts        learning rate
    ──────────────────────────────────────────────
        1   classes   3 epochs     × 1
        2   all       to the end   × 0.1

    Reference: Kumar, Raghunathan, Jones, Ma and Liang, "Fine-tuning can distort pretrained features
    and underperform out-of-distribution", ICLR 2022.
    """
    (top, _) = _groups(model, 1, head, "linear_probe_then_fine_tune")
    return FreezeSchedule(
        [Phase(top, epochs), Phase("all", lr_multiplier=lr_multiplier)], batch_norm
    )


def surgical(
    model: keras.Model,
    block: str = "first",
    num_groups: int = 4,
    head: Any = None,
    batch_norm: str = "inference",
) -> FreezeSchedule:
    """Surgical fine-tuning: a schedule that trains one block of a trained model.

    For few labels under distribution shift: which block to adapt depends on the kind of shift.

    Args:
        model: The built and trained model.
        block: `"first"` for a shift of the inputs (noise, blur, another camera), `"middle"` for a
            shift of feature combinations, `"last"` (the head) for a shift of the labels.
        num_groups: Number of blocks below the head.
        head: The layers of the head; see `layer_groups`.
        batch_norm: See `kerastools.callbacks.FreezeSchedule`.

    Returns:
        A `kerastools.callbacks.FreezeSchedule` of one phase.

    Raises:
        ValueError: Like `layer_groups`, or if `block` is unknown.

    Example:

    >>> layers = [keras.layers.Dense(4, name=name) for name in ("a", "b", "c", "classes")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> surgical(model, "first", num_groups=3).phases[0].layers
    ['a']

    Reference: Lee, Chen, Tajwar, Kumar, Yao, Liang and Finn, "Surgical fine-tuning improves
    adaptation to distribution shifts", ICLR 2023.
    """
    groups = _groups(model, num_groups, head, "surgical")[::-1]
    blocks = {"first": groups[0], "middle": groups[(len(groups) - 1) // 2], "last": groups[-1]}
    if block not in blocks:
        raise ValueError(f"surgical needs block to be one of {tuple(blocks)}. Received {block!r}.")
    return FreezeSchedule([Phase(blocks[block])], batch_norm)


def discriminative(
    model: keras.Model,
    layer_decay: float = 1 / 2.6,
    num_groups: int = 4,
    head: Any = None,
    batch_norm: str = "inference",
) -> FreezeSchedule:
    """Discriminative fine-tuning: trains all layers, the lower ones at smaller learning rates.

    Args:
        model: The built model to train.
        layer_decay: Learning rate of each group relative to the group above it.
        num_groups: Number of groups below the head.
        head: The layers with the optimizer's own learning rate; see `layer_groups`.
        batch_norm: See `kerastools.callbacks.FreezeSchedule`.

    Returns:
        A `kerastools.callbacks.FreezeSchedule` of one phase.

    Raises:
        ValueError: Like `layer_groups`, or if `layer_decay` is invalid.

    Example:

    >>> layers = [keras.layers.Dense(4, name=name) for name in ("a", "b", "c", "classes")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> discriminative(model, num_groups=3).phases[0].layers
    [['classes'], ['c'], ['b'], ['a']]

    Reference: Howard and Ruder, "Universal language model fine-tuning for text classification",
    ACL 2018.
    """
    groups = _groups(model, num_groups, head, "discriminative")
    return FreezeSchedule([Phase(groups, layer_decay=layer_decay)], batch_norm)


def head_and_units(model: Any, head: Any, caller: str) -> tuple[list[str], list[list[str]]]:
    """Returns the paths of the head, and those below it, each normalization with its layer."""
    require_built(model, caller)
    tree = LayerTree(model)
    top = _head(tree, head, caller)
    units = tree.units(lambda path, layer: path not in top)
    return top, [[path for path, _ in unit] for unit in units]


def _groups(model: Any, num_groups: int, head: Any, caller: str) -> list[list[str]]:
    top, units = head_and_units(model, head, caller)
    if not 1 <= num_groups <= len(units):
        raise ValueError(
            f"{caller} needs num_groups between 1 and the number of layers below the head, "
            f'{len(units)} in model "{model.name}". Received num_groups={num_groups}.'
        )
    cuts = [round(i * len(units) / num_groups) for i in range(num_groups + 1)]
    groups = [[path for unit in units[i:j] for path in unit] for i, j in pairwise(cuts)]
    return [top, *reversed(groups)]


def _head(tree: LayerTree, head: Any, caller: str) -> list[str]:
    """Returns the paths of the layers of the head."""
    if head is not None:
        chosen = tree.weights_of(tree.select(head, caller))
    else:
        # From the top down to the last nested model, or to the first layer that has weights.
        layers = [layer for layer in tree.model.layers if layer.weights]
        nested = any(isinstance(layer, keras.Model) for layer in layers)
        chosen = list(layers[-1].weights)
        for layer in layers[-2::-1] if nested else ():
            if isinstance(layer, keras.Model):
                break
            chosen += layer.weights
    ids = {id(v) for v in chosen}
    return [path for path, layer in tree.owners() if any(id(v) in ids for v in layer.weights)]
