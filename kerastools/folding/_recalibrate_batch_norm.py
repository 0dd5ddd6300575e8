"""Statistics of batch normalisation that fit the weights as they are."""

from typing import Any

import keras

from kerastools._core.batches import MOST_ROWS, gather, is_dataset
from kerastools._core.checks import require_at_least, require_inputs
from kerastools._core.graph.batch_statistics import measure_batch_norm
from kerastools._core.graph.calls import Call, read_graph

_NAME = "recalibrate_batch_norm"


def recalibrate_batch_norm(model: keras.Model, x: Any, batch_size: int = 256) -> keras.Model:
    """Sets the moving statistics of all batch normalisations from `x`, in place, and returns it.

    Moving averages lag behind the weights, and what they average are statistics of small batches.
    So they do not fit weights that changed after training, such as averaged weights (EMA, SWA), and
    are noisy after training with small batches; nor do they fit data from another source. This
    replaces them by the mean and variance over `x`. Use it before `fold_batch_norm`.

    Each batch b of n_b rows goes through the model once, with batch normalisation in training mode
    and everything else in inference (dropout and augmentation are off). With μ_b and σ²_b its
    statistics, and n = Σn_b:

        μ  = Σ n_b μ_b / n
        σ² = Σ n_b (σ²_b + μ_b²) / n − μ²

    A last batch that is not full is left out, unless it is the only one: statistics of a few rows
    would disturb all layers above. Weights stay, and so do batch normalisations that are frozen
    (`trainable=False`), called with `training=False`, made with `renorm=True`, or inside of layers
    such as `TimeDistributed`.

    Args:
        model: A built functional or Sequential model.
        x: Inputs as the model takes them: an array, or a list or dictionary of arrays. A few
            thousand rows do; labels are not needed. Of a dataset the first 8,192 are taken.
        batch_size: Rows per batch. Larger fits better: the statistics of one layer are measured on
            what the layers below give under the statistics of the same batch.

    Returns:
        `model`.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or is subclassed, or the data are empty, not finite,
            or of another structure or number of rows. The model is then as it was, as it is after
            an interrupt.

    Example:

    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    >>> x = np.array([[1.0], [3.0], [5.0], [7.0]])
    >>> norm = recalibrate_batch_norm(model, x).layers[0]
    >>> float(norm.moving_mean[0]), float(norm.moving_variance[0])
    (4.0, 5.0)

    Reference: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3; Izmailov et al.,
    "Averaging weights leads to wider optima and better generalization", UAI 2018.
    """
    graph = read_graph(model, _NAME)
    require_at_least(1, _NAME, batch_size=batch_size)
    x = gather(x, _NAME, MOST_ROWS)[0] if is_dataset(x) else x
    measure_batch_norm(model, require_inputs(graph, x, _NAME), batch_size, _NAME, _moves)
    return model


def _moves(call: Call) -> bool:
    """Whether a call of a batch normalisation would move its statistics in training."""
    # Batch renormalisation keeps averages of its own.
    layer = call.operation
    return layer.trainable and not layer.renorm and call.argument("training") is not False
