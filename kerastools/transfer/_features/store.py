"""Storage of cached features, in memory or in files."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

# Batches between two writes of a file, or two updates of the progress bar.
_CHUNK = 16


class FeatureStore:
    """Stores arrays of features by key; an interrupted file is continued."""

    def __init__(self, directory: str | os.PathLike[str] | None) -> None:
        self.directory = None if directory is None else Path(directory)
        self._memory: dict[str, np.ndarray] = {}

    def get(
        self,
        key: str,
        num_rows: int,
        compute: Callable[[int, int], np.ndarray],
        batch_size: int,
        verbose: bool,
    ) -> np.ndarray:
        """Returns the features of `key`; `compute(i, j)` computes those of rows i to j."""
        if key in self._memory:
            return self._memory[key]
        rows = self._open(key)
        done = self._done(key) if rows is not None else 0
        bar = keras.utils.Progbar(num_rows, unit_name="row", verbose=int(verbose))
        while done < num_rows or rows is None:
            stop = min(done + _CHUNK * batch_size, num_rows)
            chunk = _storable(compute(done, stop))
            if rows is None:
                rows = self._create(key, (num_rows, *chunk.shape[1:]), chunk.dtype)
            rows[done:stop] = chunk
            done = stop
            self._note(key, rows, done)
            bar.update(done, finalize=done == num_rows)
        self._memory[key] = rows
        return rows

    def forget(self) -> None:
        """Clears the memory; files are kept."""
        self._memory.clear()

    def _path(self, key: str, ending: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{key}.{ending}"

    def _open(self, key: str) -> np.ndarray | None:
        if self.directory is None or not self._path(key, "json").exists():
            return None
        return np.load(self._path(key, "npy"), mmap_mode="r+")

    def _create(self, key: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if self.directory is None:
            return np.empty(shape, dtype)
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self._path(key, "npy")
        return np.lib.format.open_memmap(path, mode="w+", shape=shape, dtype=dtype)

    def _done(self, key: str) -> int:
        return int(json.loads(self._path(key, "json").read_text())["rows"])

    def _note(self, key: str, rows: np.ndarray, done: int) -> None:
        """Writes the number of valid rows, after the rows themselves."""
        if isinstance(rows, np.memmap):
            rows.flush()
            partial = self._path(key, "partial")
            partial.write_text(json.dumps({"rows": done}))
            os.replace(partial, self._path(key, "json"))


def fingerprint(*parts: Any) -> str:
    """Returns a hash of nested structures of arrays, variables and text."""
    digest = hashlib.sha256()
    for leaf in keras.tree.flatten(parts):
        if isinstance(leaf, str):
            digest.update(leaf.encode())
        else:
            array = np.asarray(
                keras.ops.convert_to_numpy(leaf) if isinstance(leaf, keras.Variable) else leaf
            )
            digest.update(f"{array.dtype}{array.shape}".encode())
            data = array.astype(str) if array.dtype.kind in "OSU" else _storable(array)
            digest.update(np.ascontiguousarray(data).view("uint8").data)
    return digest.hexdigest()[:32]


def _storable(array: np.ndarray) -> np.ndarray:
    # NumPy has no bfloat16; float32 holds it exactly.
    return array if array.dtype.kind in "biuf" else array.astype("float32")
