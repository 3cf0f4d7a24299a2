"""Files that are whole or not there: written beside their place, synced, and renamed into it."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to make a file or a folder at; it takes the place of `path` if all goes well.

    A file replaces an older one at once; a folder must be new. Whatever goes wrong, nothing half-written stays.

    Raises:
        OSError: what cannot be written, and why.
    """
    if not path.name:
        raise ValueError(f"path must name a file, got {str(path)!r}")
    draft = path.with_name(f".{path.name}.{_here()}-{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        _sync(draft)
        draft.rename(path)
        _sync_one(path.parent)
    except (OSError, SafetensorError) as error:
        _remove(draft)
        why = getattr(error, "strerror", None) or str(error)
        raise OSError(f"cannot write {path}: {why}; nothing was left there") from error
    except BaseException:
        _remove(draft)
        raise


def sweep(folder: Path) -> None:
    """Remove what processes of this machine that were killed while writing have left in a folder."""
    for path in folder.glob(".*.draft"):
        host, _, process = path.name.split(".")[-2].rpartition("-")
        if host == _here() and not _alive(process):
            _remove(path)


def _here() -> str:
    """This machine's name, without what divides the names of drafts."""
    return socket.gethostname().replace(".", "_")


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        return True
    return True


def _sync(path: Path) -> None:
    if path.is_dir():
        for inner in path.iterdir():
            _sync(inner)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
