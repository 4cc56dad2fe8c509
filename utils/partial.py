"""A file that is not complete yet, and survives the process that began it."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from .body import Version

__all__ = ["PartialFile"]


class PartialFile:
    """What has come of a file so far, and of which edition of it.

    Args:
        desk: Folder that it lies in.
        origin: URL that it comes from; what came from another is not continued.
    """

    def __init__(self, desk: str, origin: str) -> None:
        self.path = os.path.join(desk, "part")
        self._record = os.path.join(desk, "part.json")
        # Not the URL itself: it may hold a password.
        self._origin = hashlib.sha256(origin.encode()).hexdigest()

    def so_far(self) -> tuple[int, Version]:
        """How many bytes there are to continue from, and of which edition."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            with open(self._record) as file:
                record = json.load(file)
            if record["origin"] == self._origin and record["version"]:
                return os.path.getsize(self.path), record["version"]
        return 0, {}

    def open(self, start: int, version: Version) -> BinaryIO:
        """Open it for writing, from an offset on."""
        if not start:
            # In this order: a kill in between must not leave the record of one edition
            # with bytes of another.
            self.clear()
            with open(self.path, "wb"), open(self._record, "w") as record:
                json.dump({"origin": self._origin, "version": version}, record)
        file = open(self.path, "r+b")  # noqa: SIM115  (the caller closes it)
        file.seek(start)
        return file

    def publish(self, path: str) -> None:
        """Make it visible under its name, at once and whole."""
        os.replace(self.path, path)
        self.clear()
        folder = os.open(os.path.dirname(path) or os.curdir, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def clear(self) -> None:
        """Forget what has come."""
        for path in (self._record, self.path):
            with suppress(FileNotFoundError):
                os.unlink(path)
