"""``get_file``: a file from a URL, in the cache.

A drop-in for ``keras.utils.get_file``, with its arguments and its layout of the cache.
A file appears under its name when it is complete and has the hash that it should have,
and not before, whatever happens; however many processes ask for it, it is fetched once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from . import console
from .archive import Limits
from .checksum import Checksum
from .download_errors import HashMismatchError, cache_errors, without_password
from .partial import PartialFile
from .place import Place, cache_folder, desk_of, locked
from .transfer import Patience, transfer
from .unpack import Unpacking

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["get_file"]


def get_file(
    fname: str | os.PathLike[str] | None = None,
    origin: str | None = None,
    untar: bool = False,
    md5_hash: str | None = None,
    file_hash: str | None = None,
    cache_subdir: str = "datasets",
    hash_algorithm: str = "auto",
    extract: bool = False,
    archive_format: str | Iterable[str] | None = "auto",
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
) -> str:
    """Fetch a file, unless it is in the cache already.

    It becomes visible under its name whole or not at all, after its hash was checked.
    An interrupted transfer is continued, by this call or, if the process is killed, by
    the next. Processes and threads that want the same file at once fetch it once.

    Args:
        fname: Name for the file. None takes the last part of the URL's path. With
            ``extract``, the contents go to a folder of that name, or to
            ``<text before the first dot>_extracted`` if it has a dot.
        origin: URL: ``http(s)://``, ``ftp://``, ``file://``, ``data:``; through fsspec,
            if it is installed, ``s3://``, ``gs://``, ``hf://`` and others.
        untar: Old name of ``extract=True, archive_format="tar"``.
        md5_hash: Old name of ``file_hash``, for md5.
        file_hash: Hexadecimal hash that the file must have. A file in the cache that
            has another is fetched again.
        cache_subdir: Folder within the cache; an absolute one is taken as it is.
        hash_algorithm: "sha256", "md5" or another of ``hashlib``; "auto" tells it by
            the length of ``file_hash``.
        extract: Whether to unpack the file, a tar or zip archive.
        archive_format: "tar" (plain, gzip, bzip2, xz), "zip", or several of them in the
            order in which to try them; "auto" is both.
        cache_dir: The cache, which is made if it is not there. None takes the
            environment's ``KERAS_HOME``, or else ``~/.keras``.
        force_download: Fetch it even if it is in the cache.

    Returns:
        Path of the file or, with ``extract`` or ``untar``, of the folder with its
        contents.

    Raises:
        DownloadError: It cannot be fetched. ``HashMismatchError``, also a
            ``ValueError``: it is another file. ``CacheError``: the cache is full or
            read-only, or has something else of that name. ``ArchiveError``: it cannot
            be unpacked. What the cache had before is still there.
        ValueError: ``origin`` is missing or no URL, ``fname`` is no mere name, the hash
            or its algorithm cannot be one, or nothing is left to unpack with.
        NotImplementedError: ``archive_format`` names another format.

    Warns:
        UserWarning: For each member of an archive that is left out because it leads out
            of the folder, or is a device or a pipe.

    Differs from Keras: nothing incomplete or with a wrong hash is ever in the cache.
    Differs from Keras: transfers time out, are tried again and continued.
    Differs from Keras: a cache folder that does not exist is made, not replaced by one
    below /tmp.
    Differs from Keras: every algorithm of hashlib is known, and no other is taken for
    md5; hashes may be upper case.
    Differs from Keras: an archive is unpacked once, not at every call; files that were
    in the folder before are neither overwritten nor removed.
    Differs from Keras: a file that is no archive is an error, not a warning and a path
    to nothing.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source = pathlib.Path(folder, "numbers.txt")
    ...     _ = source.write_text("1 2 3")
    ...     path = get_file(origin=source.as_uri(), cache_dir=folder)
    ...     print(pathlib.Path(path).relative_to(folder))  # doctest: +ELLIPSIS
    Downloading data from file:///...numbers.txt
    5/5 - 0s - ...s/byte
    datasets/numbers.txt
    """
    if origin is None:
        raise ValueError(
            f"origin must be given; the first argument, {fname!r}, is fname"
        )
    if md5_hash is not None and file_hash is None:
        file_hash, hash_algorithm = md5_hash, "md5"
    name = "" if fname is None else os.fspath(fname)
    unpack = bool(extract or untar)
    place = Place.of(cache_folder(cache_dir, cache_subdir), name, origin, unpack)
    if not urlsplit(origin).scheme:
        raise ValueError(
            f"origin must be a URL, got {origin!r}; that of a file on this machine is "
            "pathlib.Path(...).absolute().as_uri()"
        )
    order = Order(
        origin,
        place,
        None if file_hash is None else Checksum.parse(file_hash, hash_algorithm),
        _formats("tar" if untar else archive_format) if unpack else (),
        bool(force_download),
    )
    return obtain(order, Patience(), Limits())


@dataclass(frozen=True, slots=True)
class Order:
    """What to get, checked.

    Attributes:
        origin: URL.
        place: Where it goes.
        checksum: What it must have; None if that is not known.
        formats: Of the archive to unpack.
        afresh: Whether a file in the cache does not do.
    """

    origin: str
    place: Place
    checksum: Checksum | None
    formats: tuple[str, ...]
    afresh: bool

    def in_cache(self) -> bool:
        """Whether the file is there, and is the right one as far as one can tell."""
        path = self.place.file
        if self.afresh or not os.path.isfile(path):
            return False
        return self.checksum is None or self.checksum.matches(path)


def obtain(order: Order, patience: Patience, limits: Limits) -> str:
    """Carry out an order; see :func:`get_file`."""
    place = order.place
    place.check_free(order.origin)
    # Without the lock first: a cache that has it may be read-only.
    if not order.in_cache():
        with locked(place.file, order.origin) as desk:
            if not order.in_cache():
                _fetch(order, desk, patience)
    if place.folder is None:
        return place.file
    unpacking = Unpacking(
        order.origin,
        place.file,
        place.folder,
        order.formats,
        desk_of(place.file),
        limits,
    )
    if not unpacking.done():
        with locked(place.file, order.origin), locked(place.folder, order.origin):
            if not unpacking.done():
                unpacking.run()
    return place.folder


def _fetch(order: Order, desk: str, patience: Patience) -> None:
    path, url = order.place.file, without_password(order.origin)
    if os.path.isfile(path) and not order.afresh:
        console.write(f"{path} does not have the hash expected; it is replaced\n")
    console.write(f"Downloading data from {url}\n")
    partial = PartialFile(desk, order.origin)
    pieced = transfer(order.origin, partial, patience)
    with cache_errors(order.origin, os.path.dirname(path)):
        wrong = _wrong_hash(order.checksum, partial)
        if wrong and pieced:  # its pieces may not belong together
            partial.clear()
            transfer(order.origin, partial, patience)
            wrong = _wrong_hash(order.checksum, partial)
        if wrong:
            partial.clear()
            raise HashMismatchError(order.origin, wrong, _OTHER_FILE)
        partial.publish(path)


_OTHER_FILE = (
    "it was thrown away; the file was changed at its source or on the way, or the hash "
    "belongs to another"
)


def _wrong_hash(checksum: Checksum | None, partial: PartialFile) -> str:
    """What is wrong with the hash; nothing if it is right or not known."""
    if checksum is None:
        return ""
    found = checksum.of(partial.path)
    if found == checksum.digits:
        return ""
    return f"its {checksum.algorithm} is {found}, not {checksum.digits}"


def _formats(chosen: str | Iterable[str] | None) -> tuple[str, ...]:
    if chosen == "auto":
        return ("tar", "zip")
    formats = (chosen,) if isinstance(chosen, str) else tuple(chosen or ())
    if not formats:
        raise ValueError(
            f"archive_format must name a format to extract, got {chosen!r}"
        )
    for name in formats:
        if name not in ("tar", "zip"):
            raise NotImplementedError(
                f"archive_format must be 'auto', 'tar' or 'zip', got {name!r}"
            )
    return formats
