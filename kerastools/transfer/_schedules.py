"""The schedules that the literature of transfer recommends, as data to print and to edit."""

from itertools import pairwise
from typing import Any

import keras

from kerastools._core.checks import require_built
from kerastools._core.graph.kinds import is_kind
from kerastools._core.graph.layer_tree import LayerTree
from kerastools.callbacks import FreezeSchedule, Phase


def layer_groups(model: keras.Model, num_groups: int = 4, head: Any = None) -> list[list[str]]:
    """Returns the layers that have weights, in groups from the head down to the input.

    The first group is the head. The layers below are cut into `num_groups` groups of about equally
    many layers, each normalisation beside the layer under it.

    Args:
        model: A built model.
        num_groups: How many groups the trunk is cut into, at least 1.
        head: Which layers are the head, as `Phase` takes them. By default those above the last
            nested model, or the last layer that has weights.

    Returns:
        Lists of paths of layers.

    Raises:
        ValueError: If the model is not built, the head is not found or is all there is, or
            `num_groups` is not between 1 and the number of layers of the trunk.

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
    """Returns a schedule that trains the head and then unfreezes the trunk group by group.

    Use it when the new task has few labels: each group is unfrozen when those above it fit, at a
    smaller learning rate, so that what the lower layers have learned is not washed out.

    Args:
        model: The built model that will be trained.
        num_groups: How many groups the trunk is unfrozen in, from the top down.
        epochs: How long each phase lasts; the last one, with everything, goes on to the end.
        layer_decay: The learning rate of each group relative to that of the group above it.
        head: Which layers train first; see `layer_groups`.
        batch_norm: See `kerastools.callbacks.FreezeSchedule`.

    Returns:
        A `kerastools.callbacks.FreezeSchedule` of 1 + `num_groups` phases.

    Raises:
        ValueError: As `layer_groups` does, or for a wrong number of epochs or decay.

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
    """Returns a schedule that trains the head to its end and then everything at a smaller rate.

    Fine-tuning from a random head distorts the trunk's features while the head is still wrong;
    from a trained head it keeps more of them, which shows on data that is shifted from the
    training data.

    Args:
        model: The built model that will be trained.
        epochs: How long the head trains alone.
        lr_multiplier: The learning rate of the second phase, relative to the optimizer's.
        head: Which layers are the head; see `layer_groups`.
        batch_norm: See `kerastools.callbacks.FreezeSchedule`.

    Returns:
        A `kerastools.callbacks.FreezeSchedule` of two phases.

    Raises:
        ValueError: As `layer_groups` does, or for a wrong number of epochs or multiplier.

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
    """Returns a schedule that trains one block of an already trained model and nothing else.

    For a model that is right for its task but meets shifted data and few labels: which block to
    adapt depends on the shift.

    Args:
        model: The built and trained model.
        block: `"first"`, for inputs that look different (noise, blur, another camera); `"middle"`,
            for features that occur in other combinations; `"last"`, for labels that mean something
            else: the head.
        num_groups: How many blocks the layers below the head are cut into.
        head: Which layers are the head; see `layer_groups`.
        batch_norm: See `kerastools.callbacks.FreezeSchedule`.

    Returns:
        A `kerastools.callbacks.FreezeSchedule` of one phase.

    Raises:
        ValueError: As `layer_groups` does, or if `block` is unknown.

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
    """Returns a schedule that trains all layers at once, the lower ones more slowly.

    Args:
        model: The built model that will be trained.
        layer_decay: The learning rate of each group relative to that of the group above it.
        num_groups: How many groups the layers below the head are cut into.
        head: Which layers have the optimizer's own learning rate; see `layer_groups`.
        batch_norm: See `kerastools.callbacks.FreezeSchedule`.

    Returns:
        A `kerastools.callbacks.FreezeSchedule` of one phase.

    Raises:
        ValueError: As `layer_groups` does, or for a wrong decay.

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
    """Returns the paths of the head, and those below it, each normalisation beside its layer."""
    require_built(model, caller)
    tree = LayerTree(model)
    top = _head(tree, head, caller)
    units: list[list[str]] = []
    for path, layer in tree.owners():
        if path in top:
            continue
        if units and is_kind(layer, "normalization"):
            units[-1].append(path)
        else:
            units.append([path])
    return top, units


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
