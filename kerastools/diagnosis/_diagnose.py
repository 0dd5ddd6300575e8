"""One training step on one batch, watched; every rule looks at the same figures."""

from typing import Any

import keras
from keras import tree

from kerastools._core.batches import MOST_ROWS, gather, is_dataset
from kerastools._core.checks import require_at_least, require_finite, require_inputs
from kerastools._core.graph.calls import read_graph
from kerastools.diagnosis._diagnosis import Diagnosis, judge
from kerastools.diagnosis._probe.losses import check_labels, resolve_loss
from kerastools.diagnosis._read_labels import read_labels
from kerastools.diagnosis._subject import Subject


def diagnose(
    model: keras.Model,
    x: Any,
    y: Any = None,
    loss: Any = None,
    batch_size: int = 32,
    optimizer: Any = None,
) -> Diagnosis:
    """Says what keeps `model` from training well, from one forward and backward pass.

    Call it before `fit`. It runs one batch as `fit` would, with dropout and batch statistics, and
    looks at the signal that goes forward and the gradient that comes back, layer by layer; at the
    data, the outputs and their loss; and, where an optimizer is known, at its first twenty steps
    on copies of the weights. The model is not changed, to the bit: no weight, moving statistic,
    random state or metric moves.

    | rule | measured | limit |
    |---|---|---|
    | not finite | first NaN or infinity in outputs, loss, gradients | none |
    | inputs not normalised | root mean square of what enters the first kernel | 10 |
    | labels | not what the loss takes, constant, absent, contradictory, huge | 5 % of rows, 100 |
    | output activation | outputs that are not what the loss takes them for | |
    | constant features | columns of x that never change | 50 % |
    | vanishing signal | decades per layer of the mean squared output | −0.15, 2 in all |
    | exploding signal | the same | 0.15, 2 in all |
    | vanishing gradient | decades per layer of the kernel gradient's norm | 0.15, 2 in all |
    | exploding gradient | the same, on the way back | 0.15, 2 in all |
    | saturated | outputs of hidden logistic or tanh units near a bound | 50 % |
    | dead units | rectified units that are zero for every row | 70 % or chance + 4.5 sd |
    | identical weights | units that stay one unit, kernels drawn from one seed | none |
    | wrong initialisation | a kernel's variance beside what the schemes give | tenfold |
    | learning rate too large | growth of the loss in 20 steps, smaller rates lower it | twofold |
    | update too small | norm of a step relative to the kernel's, larger rates help | 1e-5 |
    | dropout rate | probability that a unit is dropped | 0.7 |
    | dropout on the output | dropout behind the last kernel | none |
    | constraint on the wrong axis | axes of a norm beside those of a unit's weights | none |
    | batch normalisation with a tiny batch | rows of a batch, values per channel | 8, 32 |
    | tiny last batch | rows left over, with batch normalisation | fewer than 8 |

    Targets that are one-hot where the loss takes numbers of classes, or the reverse, classes that
    are numbered from 1 or by codes, and two classes called −1 and 1 are told, and read as what they
    are meant to be; all else is measured with that reading.

    Slopes are used because the usual ratio of first to last gradient misses two common faults: 50
    ReLU layers with Glorot weights, where all gradients are 1e-10 alike, and saturated sigmoids.

    Args:
        model: A built functional or Sequential model.
        x: The training inputs: an array, or a list or dictionary of arrays. All rows, so that the
            last batch is known; one batch, evenly spaced over the rows, is run. Or a dataset of
            batches `(x, y)`, as `fit` takes it; of a large one the first 8,192 rows are looked at.
        y: The targets, in the same form as arrays `x`.
        loss: Loss as in `compile`: a name, a `keras.losses.Loss` or a function; a list or
            dictionary for several outputs. By default the loss that the model was compiled with.
        batch_size: Rows of a batch in training; those of a dataset are its own.
        optimizer: The optimizer to be used, or its name; it is copied. By default the one that the
            model was compiled with; without any, learning rate and updates are not judged.

    Returns:
        A `Diagnosis`: `print` it, `.plot("signals.png")` it, look at its `.findings`, or let
        `.repair()` make a mended model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no graph or no loss; if `x` or `y` hold NaN, disagree in
            their number of rows, or do not fit the model's inputs, outputs and loss.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> x = np.random.default_rng(1).normal(size=(256, 64)).astype("float32")
    >>> y = np.arange(256) % 10
    >>> layers = [keras.layers.Dense(64, activation="relu", name=f"d{i}") for i in range(20)]
    >>> model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])
    >>> logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> [finding.rule for finding in diagnose(model, x, y, loss=logits).findings]
    ['vanishing signal']
    >>> from kerastools.calibration import initialize
    >>> diagnose(initialize(model, seed=1), x, y, loss=logits).findings
    ()

    Reference: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010; He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015.
    """
    graph = read_graph(model, "diagnose")
    require_at_least(1, "diagnose", batch_size=batch_size)
    loss_function = resolve_loss(model, loss, "diagnose")
    if is_dataset(x) and y is None:
        x, y, batch_size = gather(x, "diagnose", MOST_ROWS)
    x = require_inputs(graph, x, "diagnose")
    y = tree.map_structure(lambda a: require_finite("y", a, "diagnose"), y)
    _check_rows(x, y)
    y, loss_function, readings = read_labels(model, y, loss_function)
    check_labels(model, y, loss_function, "diagnose")

    if optimizer is None:
        optimizer = getattr(model, "optimizer", None)
    else:
        optimizer = keras.optimizers.get(optimizer)
    return judge(Subject(model, x, y, loss_function, batch_size, optimizer, readings))


def _check_rows(x: Any, y: Any) -> None:
    """Raises unless the number of rows is the same everywhere."""
    counts = {name: [len(a) for a in tree.flatten(part)] for name, part in (("x", x), ("y", y))}
    if len({*counts["x"], *counts["y"]}) != 1:
        raise ValueError(
            f"diagnose needs as many rows of x as of y. Received {counts['x']} rows of x and "
            f"{counts['y']} rows of y."
        )
