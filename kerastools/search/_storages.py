"""Storages of Optuna, from what a user passes."""

import os
from contextlib import suppress
from typing import Any

from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from kerastools.search._shared_study import quiet


def storage_for(storage: Any, heartbeat: int, grace: int, own_file: str) -> Any:
    """Returns an Optuna storage for a URL, for a storage, or for `None`, which means `own_file`."""
    if storage is None:
        _mend(own_file)
        return JournalStorage(JournalFileBackend(own_file, JournalFileOpenLock(own_file)))
    if isinstance(storage, str):
        with quiet():
            return RDBStorage(
                _with_driver(storage),
                engine_kwargs=_engine_arguments(storage),
                heartbeat_interval=heartbeat,
                grace_period=grace,
            )
    if getattr(storage, "get_heartbeat_interval", lambda: None)() is None:
        raise ValueError(
            "OptunaOracle needs a storage with heartbeats, by which it finds trials whose process "
            f"died. Received {storage!r}. Pass its URL, an RDBStorage(url, heartbeat_interval=15, "
            "grace_period=60), or nothing for a file in the search's directory."
        )
    return storage


def _mend(path: str) -> None:
    """Removes what a killed process may have left: its lock, and a last line that is not whole."""
    with suppress(FileNotFoundError):
        os.unlink(f"{path}.lock")
    with suppress(FileNotFoundError), open(path, "rb+") as file:
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)


def _with_driver(url: str) -> str:
    for prefix in ("postgresql://", "postgres://"):
        if url.startswith(prefix):
            return f"postgresql+psycopg://{url.removeprefix(prefix)}"
    return url


def _engine_arguments(url: str) -> dict[str, Any]:
    # SQLite: how long to wait for another's writing. Others: a restarted server is noticed.
    return (
        {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    )
