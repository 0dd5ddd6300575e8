"""Directories that appear whole or not at all."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appears_at_once(root: Path, version: int) -> Iterator[Path]:
    """Yields a directory to write to, which is renamed at the end or removed on any error."""
    missing = [p for p in (root, *root.parents) if not p.exists()]
    # Servers watch for directories whose name is a number; this one is not.
    staging = root / f".{version}.partial-{uuid.uuid4().hex[:8]}"
    replaced = staging.with_suffix(".replaced")
    final = root / str(version)
    staging.mkdir(parents=True)
    try:
        yield staging
        if final.exists():
            final.rename(replaced)
        try:
            staging.rename(final)
        except OSError:
            if replaced.exists():
                replaced.rename(final)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for made in missing:
            with suppress(OSError):
                made.rmdir()
        raise
