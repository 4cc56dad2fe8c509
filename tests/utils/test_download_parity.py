"""get_file beside the installed keras' own, on the same server.

The cases are drawn from the product of names, archives, formats, hashes and second
calls. Where feedline differs on purpose, the case says how, and its own rule is checked.
FEEDLINE_EXAMPLES multiplies the number of cases.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline.utils import CacheError, DownloadError
from feedline.utils import get_file as our_get_file
from tests.utils.differential import cases
from tests.utils.download_faults import choices
from tests.utils.server import Reply, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in (("one.txt", b"1"), ("sub/two.txt", b"22")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
        link = tarfile.TarInfo("sub/link")
        link.type, link.linkname = tarfile.SYMTYPE, "two.txt"
        archive.addfile(link)
    return packed.getvalue()


def zipped() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("one.txt", "1")
        archive.writestr("sub/two.txt", "22")
    return packed.getvalue()


BODIES = {
    "tar": tar(),
    "gz": gzip.compress(tar(), mtime=0),
    "bz2": bz2.compress(tar()),
    "xz": lzma.compress(tar()),
    "zip": zipped(),
    "text": b"no archive at all",
    "gz of text": gzip.compress(b"no archive at all", mtime=0),
    "empty": b"",
}


@dataclass(frozen=True)
class Result:
    """What a call came to.

    Attributes:
        path: What it returned, relative to the cache.
        error: What it raised.
        files: What is in the cache then: names and contents, links as links.
        requests: How many it made.
        warned: How many UserWarnings.
    """

    path: str | None
    error: type[Exception] | None
    files: dict[str, str]
    requests: int
    warned: int


@dataclass(frozen=True)
class Case:
    """One point of the product."""

    fname: str | PurePosixPath | None
    body: str
    url_name: str
    unpack: dict[str, bool]
    archive_format: Any
    hashed: str
    second: str

    @property
    def options(self) -> dict[str, Any]:
        data = BODIES[self.body]
        md5, sha256 = hashlib.md5(data).hexdigest(), hashlib.sha256(data).hexdigest()
        hashes: dict[str, dict[str, str]] = {
            "none": {},
            "md5": {"file_hash": md5, "hash_algorithm": "md5"},
            "sha256": {"file_hash": sha256, "hash_algorithm": "sha256"},
            "auto-md5": {"file_hash": md5},
            "auto-sha256": {"file_hash": sha256},
            "md5_hash": {"md5_hash": md5},
            "both": {"md5_hash": "0" * 32, "file_hash": sha256},
            "wrong": {"file_hash": "0" * 64},
            "wrong-md5": {"md5_hash": "0" * 32},
            "wrong-length": {"file_hash": sha256, "hash_algorithm": "md5"},
            "empty": {"file_hash": ""},
            "upper-case": {"file_hash": sha256.upper()},
        }
        return {
            "fname": self.fname,
            "archive_format": self.archive_format,
            **self.unpack,
            **hashes[self.hashed],
        }

    @property
    def second_options(self) -> dict[str, Any]:
        return {
            "same": self.options,
            "force": {**self.options, "force_download": True},
            "now extract": {**self.options, "extract": True},
        }[self.second]

    def difference(self, options: dict[str, Any]) -> str | None:
        """Where feedline is not meant to do what keras does."""
        unpack = options.get("extract") or options.get("untar")
        formats = "tar" if options.get("untar") else self.archive_format
        if self.hashed in ("empty", "wrong-length"):
            return "no hash at all"
        if unpack and not formats:
            return "nothing to unpack with"
        if unpack and "rar" in formats:
            return "an unknown format"
        if self.hashed in ("wrong", "wrong-md5"):
            return "a wrong hash"
        if self.hashed == "upper-case":
            return "upper case"
        if unpack and not self.unpack and "." not in str(self.fname or ""):
            return "a name that is taken"
        if unpack and not self._fits(formats):
            return "no such archive"
        return None

    def _fits(self, formats: Any) -> bool:
        kind = {"zip": "zip", "text": "", "gz of text": "", "empty": ""}
        chosen = (
            {"auto": ("tar", "zip")}.get(formats, (formats,))
            if (isinstance(formats, str))
            else formats
        )
        return kind.get(self.body, "tar") in chosen


HASHES = [
    *("none", "none", "none", "md5", "sha256", "auto-md5", "auto-sha256", "md5_hash"),
    *("both", "wrong", "wrong-md5", "wrong-length", "empty", "upper-case"),
]
CASES = st.builds(
    Case,
    fname=st.sampled_from(
        [
            None,
            "",
            "data",
            "data.v1.tar.gz",
            ".hid",
            "a b%20c",
            PurePosixPath("data.bin"),
        ]
    ),
    body=st.sampled_from(sorted(BODIES)),
    url_name=st.sampled_from(["a.tar.gz", "a%20b.zip?x=/y#z", "plain"]),
    unpack=st.sampled_from([{}, {"extract": True}, {"untar": True}]),
    archive_format=st.sampled_from(
        ["auto", "auto", "tar", "zip", ["zip", "tar"], ("tar",), [], None, "rar"]
    ),
    hashed=st.sampled_from(HASHES),
    second=st.sampled_from(["same", "force", "now extract"]),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as serving:
        yield serving


@pytest.fixture(scope="module")
def keras_get_file() -> Callable[..., str]:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras").utils.get_file  # type: ignore[no-any-return]


def called(
    get_file: Callable[..., str], server: Server, path: str, cache: Path, options: Any
) -> Result:
    # A fragment does not travel, and what is requested is all that the server sees.
    seen = server.requests[path.partition("#")[0]]
    before = len(seen)
    came: str | None = None
    error: type[Exception] | None = None
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(io.StringIO()),
        choices(),
    ):
        warnings.simplefilter("always")
        try:
            came = get_file(
                origin=server.address + path, cache_dir=str(cache), **options
            )
            came = os.path.relpath(came, cache)
        except Exception as raised:  # noqa: BLE001  (to be compared)
            error = type(raised)
    warned = sum(issubclass(warning.category, UserWarning) for warning in caught)
    return Result(came, error, files(cache), len(seen) - before, warned)


def files(cache: Path) -> dict[str, str]:
    return {
        str(path.relative_to(cache)): (
            f"-> {os.readlink(path)}"
            if path.is_symlink()
            else hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in cache.rglob("*")
        if (path.is_symlink() or path.is_file()) and ".feedline" not in path.parts
    }


def same_family(ours: type[Exception] | None, theirs: type[Exception] | None) -> bool:
    """A subclass will do; keras' bare Exception stands for what DownloadError says."""
    if ours is None or theirs is None:
        return ours is theirs
    return issubclass(ours, DownloadError if theirs is Exception else theirs)


def check_rule(difference: str, ours: Result, theirs: Result) -> None:
    """What feedline does instead."""
    if difference == "nothing to unpack with":
        assert (ours.error, ours.requests) == (ValueError, 0)
    elif difference == "an unknown format":
        assert (ours.error, ours.requests) == (NotImplementedError, 0)
    elif difference == "a wrong hash":
        assert ours.error is not None
        assert issubclass(ours.error, ValueError)
        assert theirs.error is ValueError
        assert (ours.files, ours.requests) == ({}, theirs.requests)
    elif difference == "no hash at all":
        assert (ours.error, ours.requests, ours.files) == (ValueError, 0, {})
        assert theirs.error is ValueError
    elif difference == "a name that is taken":
        # Keras fetches first, and then cannot make the folder, or does not try to.
        assert (ours.error, ours.requests, theirs.requests) == (CacheError, 0, 1)
    elif difference == "upper case":
        assert theirs.error is ValueError
        assert ours.error is None or issubclass(ours.error, DownloadError)
    else:
        assert difference == "no such archive"
        assert ours.error is not None
        assert issubclass(ours.error, DownloadError)
        assert (theirs.error, theirs.warned) == (None, 1)
        assert (ours.files, ours.requests) == (theirs.files, theirs.requests)


@cases(400)
@given(case=CASES)
def test_two_calls_come_to_the_same(
    server: Server, keras_get_file: Callable[..., str], case: Case
) -> None:
    path = "/" + case.url_name
    server.serve(path.partition("#")[0], Reply(BODIES[case.body]))
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder, "ours"), Path(folder, "theirs")
        one.mkdir()
        other.mkdir()
        for options in (case.options, case.second_options):
            theirs = called(keras_get_file, server, path, other, options)
            ours = called(our_get_file, server, path, one, options)
            if difference := case.difference(options):
                check_rule(difference, ours, theirs)
                return
            assert same_family(ours.error, theirs.error)
            assert (ours.path, ours.files, ours.requests, ours.warned) == (
                (theirs.path, theirs.files, theirs.requests, theirs.warned)
            )


SERVERS = {
    "length": Reply(b"abc" * 9999),
    "no length": Reply(b"abc" * 9999, length=False),
    "chunks": Reply(b"abc" * 9999, chunked=True),
    "empty": Reply(b""),
    "disposition": Reply(
        b"abc", headers={"Content-Disposition": "attachment; filename=other.txt"}
    ),
    "packed": Reply(gzip.compress(b"abc"), headers={"Content-Encoding": "gzip"}),
    "redirect": Reply(status=302, headers={"Location": "/elsewhere"}),
    "permanent redirect": Reply(status=308, headers={"Location": "/elsewhere"}),
    "redirect loop": Reply(status=302, headers={"Location": "/a.bin"}),
    "redirect to nowhere": Reply(status=302, headers={"Location": "/missing"}),
    "created": Reply(b"abc", status=201),
    "no content": Reply(b"", status=204),
    "bad request": Reply(status=400),
    "forbidden": Reply(status=403),
    "gone": Reply(status=410),
    "server error": Reply(b"sorry", status=500),
    "unavailable": Reply(b"sorry", status=503),
    "short": Reply(b"abc" * 9999, stop_at=9000, ranges=False),
    "reset": Reply(b"abc" * 9999, stop_at=9000, ranges=False, reset=True),
}
REPEATED = ("redirect loop", "server error", "unavailable", "short", "reset")


@cases(100)
@given(
    name=st.sampled_from(sorted(SERVERS)),
    fname=st.sampled_from([None, "data", "data.bin"]),
    wrong=st.booleans(),
)
def test_what_a_server_does_comes_to_the_same(
    server: Server,
    keras_get_file: Callable[..., str],
    name: str,
    fname: str | None,
    wrong: bool,
) -> None:
    server.serve("/a.bin", SERVERS[name])
    server.serve("/elsewhere", Reply(b"elsewhere"))
    options = {"fname": fname, **({"file_hash": "0" * 64} if wrong else {})}
    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder, "ours"), Path(folder, "theirs")
        one.mkdir()
        other.mkdir()
        theirs = called(keras_get_file, server, "/a.bin", other, options)
        ours = called(our_get_file, server, "/a.bin", one, options)
    assert same_family(ours.error, theirs.error) or (
        # urllib lets a connection that was reset through as it is
        issubclass(theirs.error or Exception, OSError) and name == "reset"
    )
    assert ours.path == theirs.path
    if name not in REPEATED:
        assert ours.requests == theirs.requests
    if theirs.error is ValueError:
        assert ours.files == {}  # keras keeps what has the wrong hash
    else:
        assert ours.files == theirs.files


ORIGINS = st.sampled_from(
    [
        "data:text/plain,hello%20world",
        "data:application/octet-stream;base64,AAEC",
        "data:;base64,AAEC",
        "data:nonsense",
        "file:///does/not/exist",
        "file:///proc",
        "http://127.0.0.1:1/refused",
        "unknown://host/name",
        "ftp://127.0.0.1:1/refused",
        "no-scheme/name",
        "/no/scheme",
        "http://127.0.0.1:1/",
        "http://127.0.0.1:1",
        "",
        None,
    ]
)


@cases(100)
@given(origin=ORIGINS, fname=st.sampled_from([None, "", "data", "a/b", b"bytes", 5]))
def test_other_origins_and_names_come_to_the_same(
    server: Server, keras_get_file: Callable[..., str], origin: str | None, fname: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = []
        for get_file in (our_get_file, keras_get_file):
            cache = Path(folder, get_file.__module__)
            cache.mkdir()
            path: str | None = None
            error: type[Exception] | None = None
            with choices(), contextlib.redirect_stdout(io.StringIO()):
                try:
                    path = get_file(fname, origin, cache_dir=str(cache))
                    path = os.path.relpath(path, cache)
                except Exception as raised:  # noqa: BLE001
                    error = type(raised)
            results.append((path, error, files(cache)))
            shutil.rmtree(cache)
    ours, theirs = results
    assert ours[0] == theirs[0]
    assert same_family(ours[1], theirs[1])
    assert ours[2] == theirs[2]
