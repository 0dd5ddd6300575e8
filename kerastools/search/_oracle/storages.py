"""Storages of Optuna, from what a user passes."""

import os
import time
from contextlib import suppress
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import SQLAlchemyError

from kerastools.search._oracle.shared_study import quiet


def storage_for(storage: Any, heartbeat: int, grace: int, own_file: str) -> Any:
    """Returns an Optuna storage for a URL, for a storage, or for `None`, which means `own_file`."""
    if storage is None:
        _mend(own_file)
        return JournalStorage(JournalFileBackend(own_file, JournalFileOpenLock(own_file)))
    if isinstance(storage, str):
        return _database(storage, heartbeat, grace)
    if getattr(storage, "get_heartbeat_interval", lambda: None)() is None:
        raise ValueError(
            "OptunaOracle needs a storage with heartbeats, by which it finds trials whose process "
            f"died. Received {storage!r}. Pass its URL, an RDBStorage(url, heartbeat_interval=15, "
            "grace_period=60), or nothing for a file in the search's directory."
        )
    return storage


def _database(url: str, heartbeat: int, grace: int) -> RDBStorage:
    for pause in (0.2, 0.5, 1.0, 2.0, None):
        try:
            with quiet():
                return RDBStorage(
                    _with_driver(url),
                    engine_kwargs=_engine_arguments(url),
                    heartbeat_interval=heartbeat,
                    grace_period=grace,
                )
        except ImportError as error:
            raise ImportError(
                f"OptunaOracle needs the driver of {url.partition(':')[0]}; for PostgreSQL: "
                "pip install 'kerastools[distributed]'."
            ) from error
        except (SQLAlchemyError, StorageInternalError) as error:
            # Processes that begin at the same moment make the same tables.
            if pause is None:
                reason = str(error.__cause__ or error).splitlines()[0]
                raise ConnectionError(
                    f"OptunaOracle cannot use the storage: {reason}. Is the server running, is "
                    "there such a database, and is the URL right?"
                ) from error
            time.sleep(pause)
    raise AssertionError


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
