"""What is in an archive, into an empty folder; nothing of it anywhere else.

Three barriers, each of which would do alone against most of what is known:

1. A tar member passes Python's ``data`` filter, which refuses devices and takes away
   set-user-id bits.
2. Its name and what it links to are followed, link by link, in what has been unpacked
   so far (``inside.leads_to``); one that comes out of the folder is left out.
3. When all is done, the folder is looked through once more, and links that lead out of
   it now, whatever way they came, are removed.

Archives of which too much would come are refused (:class:`Limits`).
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from .inside import contents, leads_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["BadArchiveError", "Limits", "extract"]


class BadArchiveError(Exception):
    """The file is no archive, a broken one, or one of which too much would come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much may come out of an archive; generous to all but bombs.

    Attributes:
        free_bytes: So much may always come.
        ratio: More may, up to this many times the size of the archive.
        free_members: So many files and folders may always come.
        bytes_per_member: More may, one for so many bytes of the archive.
        header_bytes: Longest description of one member.
    """

    free_bytes: int = 1 << 30
    ratio: int = 200
    free_members: int = 100_000
    bytes_per_member: int = 50
    header_bytes: int = 1 << 24


def extract(
    archive: str,
    folder: str,
    formats: Iterable[str],
    limits: Limits,
    warn: Callable[[str], None],
) -> list[str]:
    """Unpack an archive.

    Args:
        archive: A tar file, plain or compressed by gzip, bzip2, xz or lzma, or a zip
            file.
        folder: An empty folder, of which nobody else knows.
        formats: "tar", "zip" or both, in the order in which to try them.
        limits: How much may come.
        warn: Is told of each member that is left out because it is not safe.

    Returns:
        Names of the files and links in it now, relative to ``folder``.

    Raises:
        BadArchiveError: It is none of ``formats``, broken, or too large.
        OSError: There is no room for it, or no permission.
    """
    formats = tuple(formats)
    budget = _Budget(limits, os.path.getsize(archive))
    with _broken_as_bad_archive():
        if not any(_UNPACK[name](archive, folder, budget, warn) for name in formats):
            raise BadArchiveError(f"it is no {' or '.join(formats)} archive")
    _remove_what_leads_out(folder, warn)
    return contents(folder)


class _Budget:
    """Counts what comes out against the limits."""

    def __init__(self, limits: Limits, archive_bytes: int) -> None:
        self.limits = limits
        self.bytes = max(limits.free_bytes, limits.ratio * archive_bytes)
        self._members = max(
            limits.free_members, archive_bytes // limits.bytes_per_member
        )
        self._bytes_left = self.bytes

    def spend(self, size: int) -> None:
        """One member of so many bytes."""
        self._members -= 1
        self._bytes_left -= size
        if self._members < 0:
            raise BadArchiveError("more files would come out of it than is sound")
        self.check(self.bytes - self._bytes_left)

    def check(self, size: int) -> None:
        if size > self.bytes:
            raise BadArchiveError(
                f"more than {self.bytes} bytes would come out of it, which is more than "
                "is sound for an archive of its size"
            )


# ---- tar -----------------------------------------------------------------------------

_DECOMPRESS: list[tuple[bytes, Callable[[str], Any]]] = [
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"\x5d\x00\x00", lzma.open),
]


def _unpack_tar(
    archive: str, folder: str, budget: _Budget, warn: Callable[[str], None]
) -> bool:
    if not hasattr(tarfile, "data_filter"):
        raise BadArchiveError(
            "this Python cannot unpack tar safely; 3.11.4 and later can"
        )
    with open(archive, "rb") as file:
        start = file.read(8)
    decompress = next(
        (opened for magic, opened in _DECOMPRESS if start.startswith(magic)), None
    )
    with (decompress or _open)(archive) as stream:
        metered: Any = _Metered(stream, budget)
        try:
            tar = tarfile.open(fileobj=metered, mode="r:")  # noqa: SIM115
        except tarfile.ReadError:
            return False
        except OSError as error:
            if decompress and error.errno is None:  # it only began like one
                return False
            raise
        with tar:
            tar.extractall(folder, filter=_TarGate(folder, budget, warn))
            # To the end, where a compressed stream has its checksum.
            ended = bool(metered.read(tarfile.BLOCKSIZE))
            while metered.read(tarfile.RECORDSIZE):
                pass
    if not ended:
        warn(f"{archive!r} has no end mark; perhaps a part of it is missing")
    return True


def _open(path: str) -> IO[bytes]:
    return open(path, "rb")


class _Metered:
    """A stream out of which no more comes than the budget allows."""

    def __init__(self, stream: IO[bytes], budget: _Budget) -> None:
        self._stream = stream
        self._budget = budget
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        # Contents are read in small blocks; only a header is asked for at once.
        if size > self._budget.limits.header_bytes:
            raise BadArchiveError(f"one of its headers has {size} bytes")
        block = self._stream.read(size)
        self._budget.check(self._stream.tell())
        return block

    def seek(self, position: int) -> int:
        self._budget.check(position)
        return self._stream.seek(position)


class _TarGate:
    """The filter of ``extractall``: lets a member pass, or leaves it out."""

    def __init__(
        self, folder: str, budget: _Budget, warn: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._budget = budget
        self._warn = warn

    def __call__(self, member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        self._budget.spend(member.size if member.isreg() else 0)
        try:
            passed = tarfile.data_filter(member, path)
        except (tarfile.FilterError, ValueError):
            passed = None
        if passed is None or not self._safe(member):
            self._warn(_left_out(member.name))
            return None
        return passed

    def _safe(self, member: tarfile.TarInfo) -> bool:
        if member.name.startswith("/"):
            return False
        above, _, name = member.name.rpartition("/")
        if self._through_nothing(member.name if member.isdir() else above):
            return False
        if member.isdir():
            return leads_to(self._folder, member.name) is not None
        if name in ("", ".", "..") or leads_to(self._folder, above) is None:
            return False
        if member.issym():
            link = member.linkname
            place = os.path.join(self._folder, member.name)
            if os.path.isdir(place) and not os.path.islink(place):
                # In the place of which tarfile would put anything that it can find.
                raise BadArchiveError(f"{member.name!r} is both a folder and a link")
            target = leads_to(self._folder, f"{above}/{link}")
            return bool(link) and not link.startswith("/") and target is not None
        if member.islnk():
            return self._is_file(member.linkname)
        return leads_to(self._folder, member.name) is not None

    def _through_nothing(self, name: str) -> bool:
        """Whether a link on the way leads to nothing; what it led to was left out."""
        steps = name.split("/")
        ways = (os.path.join(self._folder, *steps[: n + 1]) for n in range(len(steps)))
        return any(os.path.islink(way) and not os.path.exists(way) for way in ways)

    def _is_file(self, name: str) -> bool:
        """Whether a hard link would be one to a file that came out of this archive.

        One to a symbolic link would be that link in another place, from where it leads
        somewhere else.
        """
        above, _, last = name.rpartition("/")
        place = leads_to(self._folder, above)
        if place is None or name.startswith("/") or last in ("", ".", ".."):
            return False
        try:
            mode = os.lstat(os.path.join(self._folder, place, last)).st_mode
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(mode)


# ---- zip -----------------------------------------------------------------------------


def _unpack_zip(
    archive: str, folder: str, budget: _Budget, warn: Callable[[str], None]
) -> bool:
    if not zipfile.is_zipfile(archive):
        return False
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        for member in members:  # all of them before the first is written
            budget.spend(member.file_size)
        for member in members:
            place = leads_to(folder, member.filename)
            absolute = member.filename.startswith("/")
            if absolute or place is None or not (place or member.is_dir()):
                warn(_left_out(member.filename))
            else:
                opened.extract(member, folder)
    return True


_UNPACK = {"tar": _unpack_tar, "zip": _unpack_zip}


# ---- both ----------------------------------------------------------------------------


def _left_out(name: str) -> str:
    return (
        f"left out {name!r}, which is not safe to unpack: it leads out of the folder, or "
        "is no file, folder or link"
    )


def _remove_what_leads_out(folder: str, warn: Callable[[str], None]) -> None:
    """Remove links that lead out now that all is there, and what is no file at all."""
    for name in contents(folder):
        path = os.path.join(folder, name)
        mode = os.lstat(path).st_mode
        leads_out = stat.S_ISLNK(mode) and leads_to(folder, name) is None
        if leads_out or not (stat.S_ISLNK(mode) or stat.S_ISREG(mode)):
            os.unlink(path)
            warn(_left_out(name))
        elif stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            os.chmod(path, mode & 0o777)


# What the operating system says of members that contradict each other.
_CONTRADICTIONS = {
    *(errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY),
    None,  # no error of the system: one of gzip or bz2
}


@contextmanager
def _broken_as_bad_archive() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _CONTRADICTIONS:
            raise
        raise BadArchiveError(f"it is broken: {error}") from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        OverflowError,  # a date
        RuntimeError,  # a password, a compression that zipfile does not know
        ValueError,
    ) as error:
        raise BadArchiveError(f"it is broken: {error}") from error
