"""Every way in which ``get_file`` can fail, in one tree.

::

    DownloadError          the file could not be fetched           (OSError)
    ├── HashMismatchError  it is not the file that was asked for   (ValueError)
    ├── CacheError         the cache cannot hold it: full, read-only, name taken
    └── ArchiveError       it was fetched, and cannot be unpacked

Each tells the URL, what happened and what to do. Arguments that make no sense are a
``ValueError`` or ``TypeError``, before anything is fetched.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "ArchiveError",
    "CacheError",
    "DownloadError",
    "HashMismatchError",
    "cache_errors",
    "without_password",
]


class DownloadError(OSError):
    """A file could not be fetched.

    Attributes:
        url: Where it was to come from; a password in it is left out.
        reason: What happened.
        remedy: What to do about it.
    """

    def __init__(self, url: str, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.url = without_password(url)
        self.reason = reason
        self.remedy = remedy
        # OSError would take them for an error number and a file name.
        self.args = (self.url, reason, remedy)

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}; {self.remedy}"


class HashMismatchError(DownloadError, ValueError):
    """What came is not the file that the hash belongs to; it was thrown away."""


class CacheError(DownloadError):
    """The cache folder cannot hold the file: full, read-only, or its name is taken."""


class ArchiveError(DownloadError):
    """The file was fetched, and is no archive that can be unpacked safely."""


@contextmanager
def cache_errors(url: str, folder: str) -> Iterator[None]:
    """Say of an ``OSError`` in the block that it is about the cache folder."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        raise CacheError(
            url,
            f"cannot write to {folder!r}: {error.strerror or error}",
            "make room there, or pass cache_dir (or set KERAS_HOME) to a folder that "
            "can be written",
        ) from error


def without_password(url: str) -> str:
    """The URL as it may be shown.

    >>> without_password("ftp://me:secret@example.org/a.zip")
    'ftp://me:***@example.org/a.zip'
    """
    password = urlsplit(url).password
    return url if not password else url.replace(f":{password}@", ":***@", 1)
