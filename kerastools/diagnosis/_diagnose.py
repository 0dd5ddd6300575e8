"""One training step on one batch, watched; every rule looks at the same figures."""

from typing import Any

import keras

from kerastools._core.checks import require_graph
from kerastools._core.graph.calls import read_graph
from kerastools.diagnosis._diagnosis import Diagnosis, judge
from kerastools.diagnosis._probe.losses import check_labels, resolve_loss
from kerastools.diagnosis._read_data import read_data
from kerastools.diagnosis._read_labels import read_labels
from kerastools.diagnosis._subject import Subject


def diagnose(
    model: keras.Model,
    x: Any,
    y: Any = None,
    loss: Any = None,
    batch_size: int = 32,
    optimizer: Any = None,
    sample_weight: Any = None,
) -> Diagnosis:
    """Says what keeps `model` from training well, from one forward and backward pass.

    Call it before `fit`. It runs one batch as `fit` would, with dropout and batch statistics, and
    looks at the signal that goes forward and the gradient that comes back, layer by layer; at the
    data (10 000 rows at most), the outputs and their loss; and, where an optimizer is known, at its
    first twenty steps on copies of the weights. The model is not changed, to the bit: no weight,
    moving statistic, random state or metric moves.

    | rule | measured | limit |
    |---|---|---|
    | not finite | first NaN or infinity in outputs, loss, gradients | none |
    | inputs not normalised | root mean square of what enters the first kernels, 1024 rows | 20 |
    | labels | not what the loss takes, constant, absent, contradictory, huge | 5 % of rows, 100 |
    | output activation | output layer, loss and targets that do not mean the same | |
    | no gradient | gradients of all kernels, and the layer that passes none on | 0 |
    | linear layers in a row | hidden layers that lead to the next without activation | half |
    | regularizer too strong | gradient of the penalties relative to that of the loss | 10 |
    | unbounded recurrence | steps of an LSTM or GRU with ReLU or the like | 50 |
    | attention weights | queries whose weight lies on one position | 90 % |
    | no positions | outputs of a transformer when tokens change places | none |
    | constant features | columns of x that never change | 50 % |
    | vanishing signal | decades per layer of the mean squared output | −0.15, 2 in all |
    | exploding signal | the same | 0.15, 2 in all |
    | vanishing gradient | decades per layer of the kernel gradient's norm | 0.15, 2 in all |
    | exploding gradient | the same, on the way back | 0.15, 2 in all |
    | saturated | outputs of hidden logistic or tanh units near a bound | 50 % |
    | dead units | rectified units that are zero for every row | 70 % or chance + 4.5 sd |
    | identical weights | units that stay one unit, kernels drawn from one seed | none |
    | wrong initialisation | a kernel's variance beside what the schemes give | tenfold |
    | learning rate not positive | the learning rate | 0 |
    | learning rate too large | growth of the loss in 20 steps, smaller rates lower it | twofold |
    | update too small | a loss that falls by 5 % in 20 steps only at 100 times the rate | 0.5 % |
    | dropout rate | probability that a unit is dropped | 0.7 |
    | dropout on the output | dropout behind the last kernel | none |
    | constraint on the wrong axis | axes of a norm beside those of a unit's weights | none |
    | batch normalisation with a tiny batch | rows of a batch, values per channel | 2, 32 |
    | tiny last batch | rows left over, with batch normalisation | fewer than 8 |

    Targets that are one-hot where the loss takes numbers of classes, or the reverse, classes that
    are numbered from 1 or by codes, and two classes called −1 and 1 are told, and read as what they
    are meant to be; all else is measured with that reading.

    Slopes are used because the usual ratio of first to last gradient misses two common faults: 50
    ReLU layers with Glorot weights, where all gradients are 1e-10 alike, and saturated sigmoids.

    Args:
        model: A built functional or Sequential model.
        x: The training inputs as `fit` takes them: an array, or a list or dictionary of arrays; or
            a `tf.data.Dataset` or a `PyDataset`, of which the first 4096 rows are read. Pass all
            rows, so that the size of the last batch is known; one batch, evenly spaced over the
            rows, is run.
        y: The targets, in the same form; left out with a dataset, or where no output has a loss.
        loss: Loss as in `compile`: a name, a `keras.losses.Loss` or a function; a list or
            dictionary for several outputs. By default what the model was compiled with, loss
            weights included. Regularizers and `add_loss` always count.
        batch_size: Rows of a batch in training; a dataset sets it.
        optimizer: The optimizer to be used, or its name; it is copied. By default the one that the
            model was compiled with; without any, learning rate and updates are not judged.
        sample_weight: Weights of the rows, as in `fit`.

    Returns:
        A `Diagnosis`: `print` it, `.plot("signals.png")` it, look at its `.findings`, or let
        `.repair()` make a mended model.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, has no graph or no loss; if `x` or `y` hold NaN, disagree in
            their number of rows, or do not fit the model's inputs, outputs and loss.

    Warns:
        KerastoolsNotice: If the class of the model has a `train_step` of its own, which is not run.

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
    require_graph(model, "diagnose")
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"diagnose needs batch_size of at least 1. Received {batch_size!r}.")
    loss_function = resolve_loss(model, loss, "diagnose")
    x, y, sample_weight, batch_size = read_data(x, y, sample_weight, batch_size, "diagnose")
    _check_inputs(model, x)
    original = (y, loss_function)
    y, loss_function, readings = read_labels(model, y, loss_function)
    check_labels(model, y, loss_function, "diagnose")

    if optimizer is None:
        optimizer = getattr(model, "optimizer", None)
    else:
        optimizer = keras.optimizers.get(optimizer)
    return judge(
        Subject(
            model, x, y, sample_weight, loss_function, batch_size, optimizer, readings, original
        )
    )


def _check_inputs(model: Any, x: Any) -> None:
    """Raises unless `x` fits the inputs of the model."""
    graph = read_graph(model, "diagnose")
    named = isinstance(graph.input_structure, dict)
    needed = set(graph.input_structure) if named else {t.name for t in graph.inputs}
    if isinstance(x, dict) and not needed <= set(x):
        raise ValueError(
            f'diagnose needs x to hold the inputs {sorted(needed)} of model "{model.name}". '
            f"Received {sorted(x)}."
        )
    arrays = graph.by_input(x)
    wanted = [tuple(t.shape) for t in model.inputs]
    fits = len(arrays) == len(wanted) and all(
        a is None or _fits(a.shape, shape) for a, shape in zip(arrays, wanted, strict=True)
    )
    if not fits:
        raise ValueError(
            f'diagnose needs x to fit the inputs of model "{model.name}", of shapes {wanted}. '
            f"Received arrays of shapes {[a.shape for a in arrays]}."
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Whether Keras takes an array; it adds or drops a last axis of size 1."""
    if len(shape) == len(wanted) - 1 and wanted[-1] == 1:
        shape = (*shape, 1)
    elif len(shape) == len(wanted) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    return len(shape) == len(wanted) and all(
        n is None or n == m for n, m in zip(wanted[1:], shape[1:], strict=True)
    )
