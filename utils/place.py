"""Where in the cache a file goes: the layout of Keras, to the letter.

Beside the files lies one hidden folder with a desk for each of them, on which the lock,
the unfinished download and the record of what was unpacked are kept::

    datasets/
    ├── flowers_archive            the file as it was downloaded
    ├── flowers/                   what was in it
    └── .feedline/
        └── flowers_archive/       the desk
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from . import console
from .download_errors import CacheError, cache_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Place", "cache_folder", "desk_of", "file_name", "locked"]

_QUIET_WAIT = 10.0  # seconds to wait for another process before saying so


@dataclass(frozen=True, slots=True)
class Place:
    """Where one file goes.

    Attributes:
        file: The file as it is downloaded.
        folder: What it is unpacked into; None if it is not.
    """

    file: str
    folder: str | None

    @classmethod
    def of(cls, cache: str, fname: str, origin: str, unpack: bool) -> Place:
        """Lay a file out.

        Args:
            cache: Folder of the cache.
            fname: Name that the user gave; empty if none.
            origin: URL, which names the file otherwise.
            unpack: Whether it is an archive to unpack.
        """
        name = file_name(fname, origin)
        if not unpack:
            return cls(os.path.join(cache, name), None)
        stem, dot, _ = name.partition(".")
        if fname and dot:
            folder = f"{stem}_extracted"
            return cls(os.path.join(cache, name), os.path.join(cache, folder))
        return cls(os.path.join(cache, f"{name}_archive"), os.path.join(cache, name))

    def check_free(self, origin: str) -> None:
        """Find out whether something else has the names.

        Raises:
            CacheError: A folder lies where the file goes, or a file where the folder
                goes.
        """
        if os.path.lexists(self.file) and not os.path.isfile(self.file):
            raise _taken(origin, self.file, "a file")
        if not self.folder or os.path.isdir(self.folder):
            return
        if os.path.lexists(self.folder):
            raise _taken(origin, self.folder, "a folder")


def cache_folder(cache_dir: str | os.PathLike[str] | None, cache_subdir: str) -> str:
    """The folder that files go to."""
    if cache_dir is None:
        cache_dir = os.environ.get("KERAS_HOME") or os.path.join("~", ".keras")
    return os.path.join(os.path.expanduser(cache_dir), cache_subdir)


def file_name(fname: str, origin: str) -> str:
    """The name of a file: the given one, or the last part of the URL's path.

    Raises:
        ValueError: It is no name of a file within the folder.

    >>> file_name("", "https://example.org/data/flowers.tgz?raw=1")
    'flowers.tgz'
    """
    name = fname or os.path.basename(urlsplit(origin).path)
    if not name:
        raise ValueError(f"{origin!r} names no file; pass fname")
    if os.sep in name:
        raise ValueError(
            f"fname must be a name without {os.sep!r}, got {fname!r}; cache_dir and "
            "cache_subdir choose the folder"
        )
    if name in (os.curdir, os.pardir) or "\0" in name:
        raise ValueError(f"{name!r} is no name for a file; pass another fname")
    return name


def desk_of(path: str) -> str:
    """The folder for what has to be remembered about a file of the cache."""
    folder, name = os.path.split(path)
    return os.path.join(folder, ".feedline", name)


@contextmanager
def locked(path: str, origin: str) -> Iterator[str]:
    """Be the only one, of all processes and threads, that works at a file of the cache.

    The system frees the lock of a process that is killed.

    Returns:
        Its desk, which exists.
    """
    from filelock import FileLock, Timeout

    desk = desk_of(path)
    with cache_errors(origin, os.path.dirname(path)):
        os.makedirs(desk, exist_ok=True)
        lock = FileLock(os.path.join(desk, "lock"))
        try:
            lock.acquire(timeout=_QUIET_WAIT)
        except Timeout:
            console.write(f"Waiting for another process that fetches {path}\n")
            lock.acquire()
    try:
        yield desk
    finally:
        lock.release()


def _taken(origin: str, path: str, wanted: str) -> CacheError:
    return CacheError(
        origin,
        f"{path!r} is in the way: it is not {wanted}",
        "move it elsewhere, or pass another fname",
    )
