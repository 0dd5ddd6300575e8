"""Rules: batch normalisation in batches too small to normalise by, all of them or the last."""

from kerastools._core.graph.flow import walk
from kerastools._core.graph.kinds import kind_of
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence, Findings

# Values per channel below which mean and variance are mostly noise, and rows below which they are
# whatever the number of positions, since neighbouring positions are alike.
_FEWEST_VALUES, _FEWEST_ROWS = 32, 2
_SMALL_BATCH = 8


def batch_norm_batch(evidence: Evidence) -> Findings:
    """Every batch holds a handful of rows."""
    rows = min(evidence.subject.batch_size, evidence.subject.num_rows)
    if rows >= _SMALL_BATCH:
        return
    found = {}
    for record in evidence.records:
        layer = record.layer
        # A frozen layer normalises by its moving statistics, whatever the batch.
        if kind_of(layer).moving_statistics and layer.trainable:
            channels = record.output.shape[layer.axis]
            found[record.path] = rows * (record.output[0].size // channels)
    if not found:
        return
    path = min(found, key=lambda p: found[p])
    if found[path] >= _FEWEST_VALUES and rows >= _FEWEST_ROWS:
        return
    yield Finding(
        rule="batch normalisation with a tiny batch",
        layer=path,
        value=float(rows),
        threshold=float(_SMALL_BATCH),
        evidence=f"Batches of {rows} rows give {path} {found[path]} values per channel to "
        "estimate mean and variance from: mostly noise in training, and not what inference "
        "normalises by.",
        fix=f"batch_size of {_SMALL_BATCH} or more, or keras.layers.LayerNormalization() or "
        "GroupNormalization() in its place.",
        source="Wu and He 2018, Group normalization, figure 1: the error grows below 8 rows.",
    )


def batch_norm_remainder(evidence: Evidence) -> Findings:
    """The last batch of each epoch is too small to estimate a mean and a variance from."""
    num_rows, batch_size = evidence.subject.num_rows, evidence.subject.batch_size
    remainder = num_rows % batch_size
    # Where every batch is small the remainder is not what is special.
    small = 0 < remainder < _SMALL_BATCH and 2 * remainder <= batch_size
    # A frozen layer normalises by its moving statistics, whatever the batch.
    layers = [
        placed.path
        for placed in walk(evidence.subject.model, "diagnose")
        if kind_of(placed.layer).moving_statistics and placed.layer.trainable
    ]
    if not (small and layers):
        return
    yield Finding(
        rule="batch normalisation with a tiny last batch",
        layer=layers[0],
        value=float(remainder),
        threshold=float(_SMALL_BATCH),
        evidence=f"{num_rows} rows in batches of {batch_size} leave a last "
        f"batch of {remainder}, whose mean and variance are mostly noise; they shift "
        f"{len(layers)} batch-normalised layers at every epoch's end.",
        fix=f"model.fit(x[:-{remainder}], y[:-{remainder}], batch_size={batch_size}), "
        f"or tf.data.Dataset.batch({batch_size}, drop_remainder=True).",
        source="Ioffe and Szegedy 2015, section 3: the statistics are those of the batch; "
        "Ioffe 2017, Batch renormalization, on small batches.",
    )
