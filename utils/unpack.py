"""An archive of the cache into its folder: once, whole, and beside what is there.

It is unpacked on its desk and moved from there, so that a folder that did not exist
appears with all that belongs in it. In one that existed, files of other origin stay as
they are: if one of them has the name of a file of the archive and other contents,
nothing is moved at all.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from .archive import BadArchiveError, extract
from .download_errors import ArchiveError, CacheError, cache_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .archive import Limits

__all__ = ["Unpacking"]

_BLOCK = 1 << 16  # bytes

_Look: TypeAlias = list[
    int
]  # size and time of a file: enough to see that it was changed


@dataclass(frozen=True, slots=True)
class Unpacking:
    """What is to be unpacked, and where.

    Attributes:
        origin: URL of the archive, for messages.
        archive: The archive.
        folder: Where its contents go.
        formats: "tar", "zip" or both.
        desk: Folder for work, and for the record of what was done.
        limits: How much may come.
    """

    origin: str
    archive: str
    folder: str
    formats: tuple[str, ...]
    desk: str
    limits: Limits

    def done(self) -> bool:
        """Whether exactly this archive was unpacked, and its files are still there."""
        record = self._record()
        return record.archive == _look(self.archive) and all(
            os.path.lexists(os.path.join(self.folder, name)) for name in record.files
        )

    def run(self) -> None:
        """Unpack it.

        Raises:
            ArchiveError: It is no archive, a broken one or a bomb. Nothing is left of it.
            CacheError: There is no room, or other files are in the way.
        """
        room = os.path.join(self.desk, "unpacked")
        with cache_errors(self.origin, os.path.dirname(self.folder)):
            shutil.rmtree(room, ignore_errors=True)  # of a process that was killed
            os.mkdir(room)
            try:
                said: list[str] = []
                names = self._extract(room, said.append)
                for text in said:
                    # At the line that called get_file.
                    warnings.warn(text, stacklevel=4)
                self._publish(room, names)
            finally:
                shutil.rmtree(room, ignore_errors=True)

    def _extract(self, room: str, warn: Callable[[str], None]) -> list[str]:
        try:
            return extract(self.archive, room, self.formats, self.limits, warn)
        except BadArchiveError as error:
            raise ArchiveError(
                self.origin,
                f"{self.archive!r} cannot be unpacked: {error}",
                "force_download=True fetches it again; what you trust can be unpacked "
                "by hand",
            ) from error

    def _publish(self, room: str, names: list[str]) -> None:
        former = self._record().files
        foreign = self._foreign(room, names, former)
        looks: dict[str, list[_Look]] = {
            # Not ours, even if it is equal, and so never to be replaced.
            name: [] if name in foreign else [_look(os.path.join(room, name))]
            for name in names
        }
        # First what is about to be ours: a kill in between must not disown it.
        self._write(None, {name: looks[name] + former.get(name, []) for name in names})
        if os.path.lexists(self.folder):
            self._merge(room, set(names) - foreign)
        else:
            os.rename(room, self.folder)
        self._write(_look(self.archive), looks)

    def _foreign(
        self, room: str, names: list[str], former: Mapping[str, list[_Look]]
    ) -> set[str]:
        """The names of which another's file is there, and equal.

        Raises:
            CacheError: One is there that is not equal.
        """
        foreign, in_the_way = set(), list(_blocked(room, self.folder))
        for name in names:
            source, target = os.path.join(room, name), os.path.join(self.folder, name)
            if not os.path.lexists(target) or _look(target) in former.get(name, []):
                continue
            if _same(source, target):
                foreign.add(name)
            else:
                in_the_way.append(name)
        if in_the_way:
            raise CacheError(
                self.origin,
                f"{self.folder!r} has {len(in_the_way)} other files with names of files "
                f"of the archive, such as {min(in_the_way)!r}",
                "move them elsewhere, or pass another fname",
            )
        return foreign

    def _merge(self, room: str, names: Iterable[str]) -> None:
        for path, folders, _ in os.walk(room):
            for name in folders:
                within = os.path.relpath(os.path.join(path, name), room)
                if not os.path.islink(os.path.join(path, name)):
                    os.makedirs(os.path.join(self.folder, within), exist_ok=True)
        for name in names:
            shutil.move(os.path.join(room, name), os.path.join(self.folder, name))

    def _record(self) -> _Record:
        with suppress(OSError, ValueError, KeyError, TypeError):
            with open(os.path.join(self.desk, "unpacked.json")) as file:
                read = json.load(file)
            return _Record(read["archive"], read["files"])
        return _Record(None, {})

    def _write(self, archive: _Look | None, files: Mapping[str, list[_Look]]) -> None:
        path = os.path.join(self.desk, "unpacked.json")
        with open(f"{path}.new", "w") as file:
            json.dump({"archive": archive, "files": files}, file)
        os.replace(f"{path}.new", path)


@dataclass(frozen=True, slots=True)
class _Record:
    """What was unpacked.

    Attributes:
        archive: Its look; None if it was not finished.
        files: By name, each look that a file of ours may have.
    """

    archive: _Look | None
    files: Mapping[str, list[_Look]]


def _look(path: str) -> _Look:
    found = os.lstat(path)
    return [found.st_size, found.st_mtime_ns]


def _same(one: str, other: str) -> bool:
    if os.path.islink(one) or os.path.islink(other):
        both = os.path.islink(one) and os.path.islink(other)
        return both and os.readlink(one) == os.readlink(other)
    if not os.path.isfile(other) or os.path.getsize(one) != os.path.getsize(other):
        return False
    # Not filecmp, which remembers names, sizes and times, and so an archive's former
    # file of the same size and date.
    with open(one, "rb") as a, open(other, "rb") as b:
        while block := a.read(_BLOCK):
            if block != b.read(_BLOCK):
                return False
    return True


def _blocked(room: str, folder: str) -> Iterable[str]:
    """Folders of the archive in whose place there is something else.

    A link is something else: what is behind it is not in the folder.
    """
    for path, folders, _ in os.walk(room):
        for name in folders:
            within = os.path.relpath(os.path.join(path, name), room)
            target = os.path.join(folder, within)
            real = os.path.isdir(target) and not os.path.islink(target)
            is_link = os.path.islink(os.path.join(path, name))
            if not is_link and os.path.lexists(target) and not real:
                yield within
