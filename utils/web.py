"""Bytes from a web server: http and https, through requests.

requests follows redirects and the proxies of the environment. What it does not do is
done here: the bytes as they lie on the server, as soon as they arrive, from an offset on
if the file is still the one that the bytes before it are of.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .body import ADDRESS, NETWORK, Body, Interrupted, StaleError, Version
from .download_errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from requests import Response

__all__ = ["open_http"]

_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})  # not now
_REMEDIES = {
    401: "the address needs credentials, in ~/.netrc or in the URL",
    403: "the server does not give it to everyone; check address and credentials",
    407: "the proxy needs credentials, in https_proxy or http_proxy",
}


@contextmanager
def open_http(
    url: str, start: int, version: Version, timeout: tuple[float, float]
) -> Iterator[Body]:
    """Open a URL at an offset; see ``source.open_url``."""
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
            raise DownloadError(url, str(error).rstrip("."), ADDRESS) from error
        raise Interrupted(reason, NETWORK) from error


def _http_body(answer: Response, url: str, start: int, version: Version) -> Body:
    code = answer.status_code
    if code == 416 and start:
        raise StaleError("the server has fewer bytes than have come", NETWORK)
    if not 200 <= code < 300:
        said = f"the server answered {code} {answer.reason}".rstrip()
        if code in _TRY_AGAIN:
            raise Interrupted(said, "try again later", answer.raw)
        raise DownloadError(url, said, _REMEDIES.get(code, ADDRESS))
    if code == 206:
        first, size = _content_range(answer.headers.get("Content-Range", ""))
        told = _version(answer, size)
        # A server may know ranges and not If-Range, and continue another edition.
        if first != start or any(told.get(k, v) != v for k, v in version.items()):
            raise StaleError("the file changed on the server meanwhile", NETWORK)
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


def _root(error: BaseException) -> BaseException:
    """The first of the errors that led to this one, which says most."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error
