"""Directories that appear whole or not at all."""

import ctypes
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL, _REPLACED = ".partial-", ".replaced-"


@contextmanager
def one_writer(root: Path) -> Iterator[None]:
    """Makes `root`, lets one process at a time write to it, and clears up after killed ones.

    The lock is the system's, so that a process that is killed lets go of it. Where there is no such
    lock, as on Windows and on some network drives, nothing waits and nothing is cleared up.
    """
    missing = [p for p in (root, *root.parents) if not p.exists()]
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root) as alone:
        if alone:
            _clear_up(root)
        try:
            yield
        except BaseException:
            for made in missing:
                with suppress(OSError):
                    made.rmdir()
            raise


@contextmanager
def appears_at_once(root: Path, version: int) -> Iterator[Path]:
    """Yields a directory to write to, which is renamed at the end or removed on any error."""
    # Servers watch for directories whose name is a number; these are not.
    token = uuid.uuid4().hex[:8]
    staging = root / f".{version}{_PARTIAL}{token}"
    staging.mkdir()
    try:
        yield staging
        _move(staging, root / str(version), root / f".{version}{_REPLACED}{token}")
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _move(staging: Path, final: Path, replaced: Path) -> None:
    """Gives `staging` the name `final`; what had it before is gone."""
    if not final.exists():
        staging.rename(final)
    elif _exchange(staging, final):
        shutil.rmtree(staging, ignore_errors=True)
    else:
        final.rename(replaced)
        try:
            staging.rename(final)
        except BaseException:
            replaced.rename(final)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swaps two names in one step if the system can: Linux, on most file systems."""
    if not sys.platform.startswith("linux"):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def _clear_up(root: Path) -> None:
    """Removes what killed writers left, and gives a version that they had put aside its name."""
    for left in root.glob(f".*{_REPLACED}*"):
        final = root / left.name[1:].split(_REPLACED)[0]
        if not final.exists():
            left.rename(final)
    for left in [*root.glob(f".*{_PARTIAL}*"), *root.glob(f".*{_REPLACED}*")]:
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(root: Path) -> Iterator[bool]:
    """Waits until no other process has the directory, and yields whether that can be known."""
    try:
        import fcntl

        handle = os.open(root, os.O_RDONLY)
    except (ImportError, OSError):
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
