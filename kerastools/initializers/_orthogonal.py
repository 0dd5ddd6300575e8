"""Random matrices with orthonormal rows or columns."""

from typing import Any

import keras
from keras import ops


def orthogonal(batch: int, rows: int, columns: int, seed: Any, dtype: str) -> Any:
    """Returns matrices of shape (batch, rows, columns), orthonormal along the shorter side.

    They are uniform over all such matrices.
    """
    long, short = max(rows, columns), min(rows, columns)
    # There is no QR in half precision.
    wide = "float64" if dtype == "float64" else "float32"
    normal = keras.random.normal((batch, long, short), dtype=wide, seed=seed)
    q, r = ops.linalg.qr(normal)
    # QR leaves the signs open; those of R's diagonal make the draw uniform.
    q = q * ops.expand_dims(ops.sign(ops.diagonal(r, axis1=-2, axis2=-1)), -2)
    return q if rows >= columns else ops.transpose(q, (0, 2, 1))
