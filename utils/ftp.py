"""Bytes from an FTP server, through ftplib."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from .body import ADDRESS, NETWORK, Body, Interrupted, Version
from .download_errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ftplib import FTP

__all__ = ["open_ftp"]


@contextmanager
def open_ftp(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    """Open a URL at an offset; see ``source.open_url``."""
    import ftplib

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
        raise DownloadError(url, f"the server answered {error}", ADDRESS) from error
    except ValueError as error:
        raise ValueError(f"origin must be a proper URL, got {url!r}") from error
    except (ftplib.Error, OSError, EOFError) as error:
        raise Interrupted(str(error) or type(error).__name__, NETWORK) from error


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
