"""Rule: batch normalisation whose last batch holds a handful of rows."""

from kerastools._core.graph.flow import walk
from kerastools._core.graph.kinds import kind_of
from kerastools.diagnosis._finding import Finding
from kerastools.diagnosis._rules.evidence import Evidence

_FEWEST_ROWS = 8


def batch_norm_remainder(evidence: Evidence) -> list[Finding]:
    """The last batch of each epoch is too small to estimate a mean and a variance from."""
    remainder = evidence.num_rows % evidence.batch_size
    # Where every batch is small the remainder is not what is special.
    small = 0 < remainder < _FEWEST_ROWS and 2 * remainder <= evidence.batch_size
    # A frozen layer normalises by its moving statistics, whatever the batch.
    layers = [
        placed.path
        for placed in walk(evidence.model, "diagnose")
        if kind_of(placed.layer).moving_statistics and placed.layer.trainable
    ]
    if not (small and layers):
        return []
    return [
        Finding(
            rule="batch normalisation with a tiny last batch",
            layer=layers[0],
            value=float(remainder),
            threshold=float(_FEWEST_ROWS),
            evidence=f"{evidence.num_rows} rows in batches of {evidence.batch_size} leave a last "
            f"batch of {remainder}, whose mean and variance are mostly noise; they shift "
            f"{len(layers)} batch-normalised layers at every epoch's end.",
            fix=f"model.fit(x[:-{remainder}], y[:-{remainder}], batch_size={evidence.batch_size}), "
            f"or tf.data.Dataset.batch({evidence.batch_size}, drop_remainder=True).",
            source="Ioffe and Szegedy 2015, section 3: the statistics are those of the batch; "
            "Ioffe 2017, Batch renormalization, on small batches.",
        )
    ]
