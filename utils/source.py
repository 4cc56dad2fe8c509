"""Where bytes come from: a URL of any scheme, opened at an offset.

http(s) goes through requests, ftp through ftplib, ``file:`` is copied, ``data:`` read by
the standard library; every other scheme, such as ``s3:``, ``gs:`` and ``hf:``, goes
through fsspec.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .body import ADDRESS, NETWORK, Body, Interrupted, Version
from .download_errors import DownloadError
from .ftp import open_ftp
from .web import open_http

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["open_url"]


@contextmanager
def open_url(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    """Open a URL at an offset.

    Args:
        url: With a scheme.
        start: Bytes of it that are here already.
        version: The edition that these are of.
        timeout: Longest wait for a connection and for the next bytes, in seconds.

    Raises:
        Interrupted: Another attempt may succeed.
        DownloadError: None will.
        ValueError: It is malformed.
    """
    from urllib.request import getproxies

    scheme = urlsplit(url).scheme.lower()
    opener = _OPENERS.get(scheme, _open_fsspec)
    if scheme == "ftp" and "ftp" in getproxies():
        opener = _open_urllib
    with opener(url, start, version, timeout) as body:
        yield body


@contextmanager
def _open_local(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    from urllib.request import url2pathname

    parts = urlsplit(url)
    path = url2pathname(parts.path)
    if parts.netloc not in ("", "localhost") or not os.path.isfile(path):
        raise DownloadError(url, "there is no such file on this machine", ADDRESS)
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            now = {"size": str(found.st_size), "modified": str(found.st_mtime_ns)}
            begin = start if now == version else 0
            file.seek(begin)
            yield Body(begin, found.st_size, now, file.read1)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(url, str(error), "check that it can be read") from error


@contextmanager
def _open_urllib(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    from urllib.request import build_opener

    try:
        # Not urlopen, which remembers the proxies that there were at its first call.
        with build_opener().open(url, timeout=timeout[1]) as answer:
            length = answer.headers.get("Content-Length") or ""
            size = int(length) if length.isdecimal() else None
            yield Body(0, size, {}, answer.read1)
    except DownloadError:
        raise
    except ValueError as error:
        raise ValueError(f"origin must be a proper URL, got {url!r}") from error
    except OSError as error:
        raise Interrupted(str(error), NETWORK) from error


@contextmanager
def _open_fsspec(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    scheme = urlsplit(url).scheme
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise DownloadError(
            url,
            f"{scheme}:// needs fsspec, which is not installed",
            "install fsspec and its package for this scheme, such as s3fs for s3://",
        ) from error
    try:
        system, path = url_to_fs(url)
        size = system.size(path)
        now = {"size": str(size), "key": str(system.ukey(path))}
        begin = start if now == version else 0
        with system.open(path, "rb") as file:
            file.seek(begin)
            yield Body(begin, size, now, file.read)
    except (DownloadError, Interrupted):
        raise
    except ImportError as error:
        raise DownloadError(url, str(error), "install that package") from error
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        reason = str(error) or type(error).__name__
        raise DownloadError(url, reason, ADDRESS) from error
    except PermissionError as error:
        raise DownloadError(url, str(error), "check the credentials") from error
    except Exception as error:  # every file system raises its own
        reason = f"{type(error).__name__}: {error}"
        remedy = "check the network and the credentials, then call again"
        raise Interrupted(reason, remedy) from error


_OPENERS = {
    "http": open_http,
    "https": open_http,
    "file": _open_local,
    "ftp": open_ftp,
    "data": _open_urllib,
}
