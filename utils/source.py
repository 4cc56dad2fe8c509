"""Where bytes come from: a URL, opened at an offset.

http(s) goes through requests, which follows redirects and the environment's proxies;
``file:``, ``ftp:`` and ``data:`` through the standard library; every other scheme, such
as ``s3:``, ``gs:`` and ``hf:``, through fsspec. Whatever they raise becomes one of two:
:class:`Interrupted`, after which another attempt may go better, or a ``DownloadError``,
after which none will.
"""

from __future__ import annotations

import os
import re
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote, urlsplit

from .download_errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ftplib import FTP

    from requests import Response

__all__ = ["Body", "Interrupted", "StaleError", "Version", "open_url"]

Version: TypeAlias = dict[str, str]
"""What tells one edition of a file from another; empty if nothing does."""

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP: not now
_NETWORK = (
    "check the network and the proxies (http_proxy, https_proxy, no_proxy), then call "
    "again"
)
_ADDRESS = "check the address"
_REMEDIES = {
    401: "the address needs credentials, in ~/.netrc or in the URL",
    403: "the server does not give it to everyone; check address and credentials",
    407: "the proxy needs credentials, in https_proxy or http_proxy",
}


class Interrupted(Exception):
    """An attempt failed in a way that may pass.

    Attributes:
        reason: What happened.
        remedy: What the user can do when it does not pass.
        response: The HTTP response of urllib3 that said so, if one did.
    """

    def __init__(self, reason: str, remedy: str, response: Any = None) -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy
        self.response = response


class StaleError(Interrupted):
    """What has come so far cannot be continued: begin anew."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a file from some offset on.

    Attributes:
        start: Offset of the first of them; 0 if the offset asked for is not possible.
        size: Length of the whole file in bytes; None if nobody says.
        version: The edition of the file. Empty: it cannot be continued later.
        read: Gives the next bytes as soon as there are any, at most as many as asked
            for; none at the end.
    """

    start: int
    size: int | None
    version: Version
    read: Callable[[int], bytes]


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
    scheme = urlsplit(url).scheme.lower()
    opener = _OPENERS.get(scheme, _open_fsspec)
    with opener(url, start, version, timeout) as body:
        yield body


@contextmanager
def _open_http(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    import requests
    from urllib3.exceptions import HTTPError

    # The file as it lies there, as urllib gives it: not packed for the journey.
    headers = {"Accept-Encoding": "identity"}
    if start:
        condition = version.get("ETag") or version["Last-Modified"]
        headers |= {"Range": f"bytes={start}-", "If-Range": condition}
    try:
        with (
            requests.Session() as session,
            session.get(url, headers=headers, stream=True, timeout=timeout) as answer,
        ):
            yield _http_body(answer, url, start, version)
    except (requests.RequestException, HTTPError) as error:
        cause = _root(error)
        reason = str(cause) or type(cause).__name__
        if "CERTIFICATE_VERIFY" in reason:
            raise DownloadError(
                url,
                reason,
                "if its certificate is your organisation's own, REQUESTS_CA_BUNDLE "
                "names the file with the root certificates",
            ) from error
        # What requests cannot make sense of is a ValueError too.
        if isinstance(error, (requests.TooManyRedirects, ValueError)):
            raise DownloadError(url, str(error).rstrip("."), _ADDRESS) from error
        raise Interrupted(reason, _NETWORK) from error


def _http_body(answer: Response, url: str, start: int, version: Version) -> Body:
    code = answer.status_code
    if code == 416 and start:
        raise StaleError("the server has fewer bytes than have come", _NETWORK)
    if not 200 <= code < 300:
        said = f"the server answered {code} {answer.reason}".rstrip()
        if code in _TRY_AGAIN:
            raise Interrupted(said, "try again later", answer.raw)
        raise DownloadError(url, said, _REMEDIES.get(code, _ADDRESS))
    if code == 206:
        first, size = _content_range(answer.headers.get("Content-Range", ""))
        told = _version(answer, size)
        # A server may know ranges and not If-Range, and continue another edition.
        if first != start or any(told.get(k, v) != v for k, v in version.items()):
            raise StaleError("the file changed on the server meanwhile", _NETWORK)
        return Body(start, size, version, _raw(answer))
    length = answer.headers.get("Content-Length", "")
    known = length.isdecimal() and "Transfer-Encoding" not in answer.headers
    size = int(length) if known else None
    return Body(0, size, _version(answer, size), _raw(answer))


def _raw(answer: Response) -> Callable[[int], bytes]:
    """Read what has arrived, undecoded; requests itself waits for a full block."""
    answer.raw.enforce_content_length = False  # Body.size is what the reader checks

    def read(count: int) -> bytes:
        block: bytes = answer.raw.read1(count, decode_content=False)
        return block

    return read


def _version(answer: Response, size: int | None) -> Version:
    version = {
        name: answer.headers[name]
        for name in ("ETag", "Last-Modified")
        if name in answer.headers
    }
    if version.get("ETag", "").startswith("W/"):  # the same meaning, not the same bytes
        del version["ETag"]
    if not version or answer.headers.get("Accept-Ranges") == "none":
        return {}
    return version if size is None else {**version, "size": str(size)}


def _content_range(header: str) -> tuple[int | None, int | None]:
    """First byte and size of the whole, from ``bytes 100-199/200``."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", header.strip())
    if not found:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


@contextmanager
def _open_local(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    from urllib.request import url2pathname

    parts = urlsplit(url)
    path = url2pathname(parts.path)
    if parts.netloc not in ("", "localhost") or not os.path.isfile(path):
        raise DownloadError(url, "there is no such file on this machine", _ADDRESS)
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
def _open_ftp(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    import ftplib
    from urllib.request import getproxies

    if "ftp" in getproxies():
        with _open_urllib(url, start, version, timeout) as body:
            yield body
        return
    try:
        # Not urlopen, which forgets the connection where there is no such file.
        with closing(ftplib.FTP(timeout=timeout[1])) as ftp:
            path = _log_in(ftp, url)
            now = _ftp_version(ftp, path)
            begin = start if now and now == version else 0
            data, told = ftp.ntransfercmd(f"RETR {path}", rest=begin or None)
            size = int(now["size"]) if now else told

            def read(count: int) -> bytes:
                block = data.recv(count)
                if not block:
                    data.close()
                    ftp.voidresp()  # an error if it was not all
                return block

            with data:
                yield Body(begin, size, now, read)
    except DownloadError:
        raise
    except ftplib.error_perm as error:
        raise DownloadError(url, f"the server answered {error}", _ADDRESS) from error
    except ValueError as error:
        raise ValueError(f"origin must be a proper URL, got {url!r}") from error
    except (ftplib.Error, OSError, EOFError) as error:
        raise Interrupted(str(error) or type(error).__name__, _NETWORK) from error


def _log_in(ftp: FTP, url: str) -> str:
    """Log in; the path to ask for."""
    parts = urlsplit(url)
    ftp.connect(parts.hostname or "", parts.port or 21)
    ftp.login(unquote(parts.username or ""), unquote(parts.password or ""))
    ftp.voidcmd("TYPE I")
    return unquote(parts.path[1:])


def _ftp_version(ftp: FTP, path: str) -> Version:
    from ftplib import error_perm

    try:
        size, modified = ftp.size(path), ftp.voidcmd(f"MDTM {path}")
    except error_perm:  # the server does not know these commands, or the file
        return {}
    return {} if size is None else {"size": str(size), "modified": modified}


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
        raise Interrupted(str(error), _NETWORK) from error


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
        raise DownloadError(url, reason, _ADDRESS) from error
    except PermissionError as error:
        raise DownloadError(url, str(error), "check the credentials") from error
    except Exception as error:  # every file system raises its own
        reason = f"{type(error).__name__}: {error}"
        remedy = "check the network and the credentials, then call again"
        raise Interrupted(reason, remedy) from error


_OPENERS = {
    "http": _open_http,
    "https": _open_http,
    "file": _open_local,
    "ftp": _open_ftp,
    "data": _open_urllib,
}


def _root(error: BaseException) -> BaseException:
    """The first of the errors that led to this one, which says most."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error
