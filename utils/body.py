"""The bytes of a file from some offset on, and what may go wrong with them.

Whatever a source of bytes raises becomes one of two: :class:`Interrupted`, after which
another attempt may go better, or a ``DownloadError``, after which none will.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ADDRESS", "NETWORK", "Body", "Interrupted", "StaleError", "Version"]

Version: TypeAlias = dict[str, str]
"""What tells one edition of a file from another; empty if nothing does."""

# Remedies.
ADDRESS = "check the address"
NETWORK = (
    "check the network and the proxies (http_proxy, https_proxy, no_proxy), then call "
    "again"
)


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
