"""Tests for feedline.utils.download and the rooms it rests on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from feedline.utils import CacheError, DownloadError, HashMismatchError, get_file
from feedline.utils.place import locked
from feedline.utils.transfer import Patience
from tests.utils.download_faults import (
    BODY,
    FAULTS,
    OTHER,
    PATIENCE,
    SHA256,
    WHOLE,
    Scene,
    choices,
    row,
)
from tests.utils.ftp_server import FtpServer
from tests.utils.server import Reply, Server

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "download-files.md"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as serving:
        yield serving


@pytest.fixture
def scene(server: Server, tmp_path: Path) -> Scene:
    return Scene(server, tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file on this machine, to be fetched by its file: URL."""
    path = tmp_path / "numbers.txt"
    path.write_bytes(b"1 2 3")
    return path


@pytest.fixture(autouse=True)
def _few_attempts() -> Iterator[None]:
    with choices(PATIENCE):
        yield


# ---- faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAULTS)
def test_fault_comes_to_what_the_page_says(server: Server, name: str) -> None:
    assert row(name, server) in PAGE.read_text().splitlines()


def test_page_tells_no_more_faults_than_these() -> None:
    table = PAGE.read_text().partition("| what happens |")[2].partition("\n\n")[0]
    assert table.count("\n") == 1 + len(FAULTS)


# ---- where it goes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fname", "url_name", "path"),
    [
        (None, "a.txt", "a.txt"),
        ("", "a.txt?x=/y.txt#z/w.txt", "a.txt"),
        (None, "a%20b.txt", "a%20b.txt"),
        ("b.txt", "a.txt", "b.txt"),
        (Path("b.txt"), "a.txt", "b.txt"),
    ],
)
def test_file_goes_to(scene: Scene, fname: Any, url_name: str, path: str) -> None:
    origin = scene.server.serve("/" + url_name.partition("#")[0], Reply(b"1"))
    came = get_file(fname, origin, cache_dir=scene.cache)
    assert came == str(scene.cache / "datasets" / path)
    assert Path(came).read_bytes() == b"1"


def test_folders_of_the_cache_are_made(source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "new/and/deep"
    came = get_file(origin=source.as_uri(), cache_dir=cache, cache_subdir="a/b")
    assert came == str(cache / "a/b/numbers.txt")


def test_absolute_subdir_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    came = get_file(origin=source.as_uri(), cache_subdir=str(tmp_path / "here"))
    assert came == str(tmp_path / "here/numbers.txt")


def test_empty_subdir_is_the_cache_itself(source: Path, tmp_path: Path) -> None:
    came = get_file(origin=source.as_uri(), cache_dir=tmp_path / "c", cache_subdir="")
    assert came == str(tmp_path / "c/numbers.txt")


def test_keras_home_is_read_at_every_call(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / name))
        came = get_file(origin=source.as_uri())
        assert came == str(tmp_path / name / "datasets/numbers.txt")


@pytest.mark.parametrize("value", [None, ""])
def test_home_is_the_default_and_a_tilde_stands_for_it(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("KERAS_HOME", value)
    came = get_file(origin=source.as_uri())
    assert came == str(tmp_path / ".keras/datasets/numbers.txt")
    came = get_file(origin=source.as_uri(), cache_dir="~/mine")
    assert came == str(tmp_path / "mine/datasets/numbers.txt")


def test_relative_cache_gives_a_relative_path(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert get_file(origin=source.as_uri(), cache_dir="c") == "c/datasets/numbers.txt"
    again = get_file(origin=source.as_uri(), cache_dir="", cache_subdir="")
    assert again == "numbers.txt"


@pytest.mark.parametrize("name", [".", "..", "a/b", "/a", "a\0b", Path("..")])
def test_name_that_is_no_mere_name_is_refused(scene: Scene, name: Any) -> None:
    with pytest.raises(ValueError, match="fname"):
        get_file(name, "http://127.0.0.1:1/a.txt", cache_dir=scene.cache)
    assert not scene.cache.exists()


@pytest.mark.parametrize("path", ["", "/", "/a/", "/..", "/a/.", "?x=a.txt"])
def test_url_that_names_no_file_is_refused(scene: Scene, path: str) -> None:
    with pytest.raises(ValueError, match="fname"):
        get_file(origin=f"http://127.0.0.1:1{path}", cache_dir=scene.cache)
    assert not scene.cache.exists()


def test_origin_must_be_a_url() -> None:
    with pytest.raises(
        ValueError, match=r"^origin must be given; the first argument, 'h"
    ):
        get_file("http://example.org/a.txt")
    with pytest.raises(ValueError, match=r"^origin must be a URL, got 'a/b.txt'"):
        get_file(origin="a/b.txt")


@pytest.mark.parametrize("kind", ["folder", "link to nothing"])
@pytest.mark.parametrize("force", [False, True])
def test_something_else_of_that_name_is_an_error_and_stays(
    scene: Scene, kind: str, force: bool
) -> None:
    scene.target.parent.mkdir(parents=True)
    if kind == "folder":
        scene.target.mkdir()
    else:
        scene.target.symlink_to("nothing")
    url = scene.server.serve("/file.bin", WHOLE)
    with pytest.raises(CacheError, match="is in the way: it is not a file; move it"):
        get_file(origin=url, cache_dir=scene.cache, force_download=force)
    assert scene.server.requests["/file.bin"] == []
    assert os.listdir(scene.target.parent) == ["file.bin"]


def test_folder_that_cannot_be_made_is_an_error_with_a_way_out(source: Path) -> None:
    with pytest.raises(CacheError, match=r"cannot write to '/proc/.*set KERAS_HOME"):
        get_file(origin=source.as_uri(), cache_dir="/proc/nowhere")


def test_file_where_a_folder_of_the_cache_goes_is_an_error(source: Path) -> None:
    with pytest.raises(CacheError, match="Not a directory"):
        get_file(origin=source.as_uri(), cache_dir=source)
    assert source.read_bytes() == b"1 2 3"


# ---- what is there already -------------------------------------------------------------


def test_file_in_the_cache_is_given_without_a_word(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    url = scene.server.serve("/file.bin", WHOLE)
    paths = {get_file(origin=url, cache_dir=scene.cache) for _ in range(2)}
    said = capsys.readouterr().out
    assert said.count("Downloading data from") == 1
    get_file(origin=url, cache_dir=scene.cache, file_hash=SHA256)
    assert capsys.readouterr().out == ""
    assert len(paths) == len(scene.server.requests["/file.bin"]) == 1


def test_first_lines_of_a_download(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    url = scene.server.serve("/file.bin", WHOLE)
    get_file(origin=url, cache_dir=scene.cache)
    first, second, *rest = capsys.readouterr().out.split("\n")
    assert first == f"Downloading data from {url}"
    assert second.startswith("400000/400000 - ")
    assert second.endswith("/byte")
    assert rest == [""]


def test_bar_of_unknown_length_ends_its_line(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    url = scene.server.serve("/file.bin", replace(WHOLE, length=False))
    get_file(origin=url, cache_dir=scene.cache)
    lines = capsys.readouterr().out.split("\n")
    assert lines[1].startswith("400000/400000 - ")
    assert lines[2:] == [""]


def test_file_of_another_hash_is_replaced(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.target.parent.mkdir(parents=True)
    scene.target.write_bytes(OTHER)
    assert scene.get(WHOLE, file_hash=SHA256) == "the file; 1 request"


def test_file_that_was_there_outlives_a_download_that_fails(scene: Scene) -> None:
    scene.target.parent.mkdir(parents=True)
    scene.target.write_bytes(b"older")
    for reply, error in (
        (Reply(status=404), DownloadError),
        (Reply(OTHER), HashMismatchError),
        (replace(WHOLE, stop_at=9), DownloadError),
    ):
        url = scene.server.serve("/file.bin", reply)
        with pytest.raises(error):
            get_file(origin=url, cache_dir=scene.cache, file_hash=SHA256)
        with pytest.raises(error):
            get_file(
                origin=url,
                cache_dir=scene.cache,
                file_hash=SHA256,
                force_download=True,
            )
        assert scene.target.read_bytes() == b"older"


def test_force_download_fetches_again(scene: Scene) -> None:
    url = scene.server.serve("/file.bin", Reply(OTHER), WHOLE)
    get_file(origin=url, cache_dir=scene.cache)
    get_file(origin=url, cache_dir=scene.cache)
    assert scene.target.read_bytes() == OTHER
    get_file(origin=url, cache_dir=scene.cache, force_download=True)
    assert scene.target.read_bytes() == BODY


def test_link_to_a_file_elsewhere_is_a_file_in_the_cache(
    scene: Scene, source: Path
) -> None:
    scene.target.parent.mkdir(parents=True)
    scene.target.symlink_to(source)
    url = scene.server.serve("/file.bin", WHOLE)
    assert get_file(origin=url, cache_dir=scene.cache) == str(scene.target)
    get_file(origin=url, cache_dir=scene.cache, force_download=True)
    assert scene.target.read_bytes() == BODY
    assert source.read_bytes() == b"1 2 3"


# ---- hashes ----------------------------------------------------------------------------

HASHED = [
    (name, digits)
    for name in ("md5", "sha1", "sha224", "sha256", "sha384", "sha512")
    for digits in [hashlib.new(name, b"1 2 3", usedforsecurity=False).hexdigest()]
]


@pytest.mark.parametrize(("name", "digits"), HASHED)
def test_right_hash_is_accepted_and_a_wrong_one_is_not(
    source: Path, tmp_path: Path, name: str, digits: str
) -> None:
    wrong = digits[:-1] + ("0" if digits[-1] != "0" else "1")
    for number, algorithm in enumerate((name, "auto", name.upper())):
        if algorithm == "AUTO":
            continue
        options: dict[str, Any] = {
            "origin": source.as_uri(),
            "cache_dir": tmp_path / str(number),
            "hash_algorithm": algorithm,
        }
        with pytest.raises(
            HashMismatchError, match=f"is {digits}, not {wrong}; it was"
        ):
            get_file(file_hash=wrong, **options)
        assert Path(get_file(file_hash=digits.upper(), **options)).exists()


def test_hash_that_auto_does_not_know_needs_its_name(
    source: Path, tmp_path: Path
) -> None:
    digits = hashlib.blake2s(b"1 2 3", digest_size=32).hexdigest()
    with pytest.raises(HashMismatchError, match="its sha256 is"):
        get_file(origin=source.as_uri(), cache_dir=tmp_path / "c", file_hash=digits)
    assert get_file(
        origin=source.as_uri(),
        cache_dir=tmp_path / "c",
        file_hash=digits,
        hash_algorithm="blake2s",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"file_hash": ""}, "hexadecimal digits, got ''"),
        ({"file_hash": "sha256:" + "0" * 64}, "hexadecimal digits"),
        ({"file_hash": "g" * 64}, "hexadecimal digits"),
        ({"file_hash": 5}, "hexadecimal digits, got 5"),
        ({"file_hash": "0" * 63}, "no algorithm has a hash of 63 digits"),
        (
            {"file_hash": "0" * 32, "hash_algorithm": "sha256"},
            "must have 64 digits",
        ),
        ({"file_hash": "0" * 64, "hash_algorithm": "sha265"}, "got 'sha265'"),
        ({"file_hash": "0" * 64, "hash_algorithm": "shake_128"}, "got 'shake_128'"),
        ({"file_hash": "0" * 64, "hash_algorithm": None}, "got None"),
        ({"md5_hash": "0" * 64}, "a hash by md5 must have 32 digits"),
    ],
)
def test_impossible_hash_is_refused_before_anything_is_fetched(
    scene: Scene, options: dict[str, Any], said: str
) -> None:
    url = scene.server.serve("/file.bin", WHOLE)
    with pytest.raises(ValueError, match=said):
        get_file(origin=url, cache_dir=scene.cache, **options)
    assert scene.server.requests["/file.bin"] == []
    assert not scene.cache.exists()


def test_algorithm_does_not_matter_without_a_hash(source: Path, tmp_path: Path) -> None:
    assert get_file(origin=source.as_uri(), cache_dir=tmp_path, hash_algorithm="none")


@pytest.mark.parametrize("chosen", ["rar", ["tar", "rar"], "TAR"])
def test_unknown_archive_format_is_refused_before_anything_is_fetched(
    scene: Scene, chosen: Any
) -> None:
    url = scene.server.serve("/file.bin", WHOLE)
    with pytest.raises(NotImplementedError, match=r"got '(rar|TAR)'"):
        get_file(origin=url, cache_dir=scene.cache, extract=True, archive_format=chosen)
    assert scene.server.requests["/file.bin"] == []
    assert get_file(origin=url, cache_dir=scene.cache, archive_format=chosen)


# ---- transfers -------------------------------------------------------------------------


def test_transfer_that_a_process_left_is_continued_by_the_next(scene: Scene) -> None:
    assert "DownloadError" in scene.get(replace(WHOLE, stop_at=150_000, ranges=False))
    assert scene.get(WHOLE) == "the file; 1 request"
    assert scene.ranges() == ["bytes=150000-"]


def test_transfer_from_another_url_is_not_continued(scene: Scene) -> None:
    url = scene.server.serve("/other", replace(WHOLE, stop_at=150_000))
    assert "DownloadError" in scene.again(url)
    assert scene.get(WHOLE) == "the file; 1 request"
    assert scene.ranges() == [None]


@pytest.mark.parametrize(
    ("headers", "etag", "asked"),
    [
        ({}, '"1"', "bytes=150000-"),
        ({}, 'W/"1"', None),
        ({}, None, None),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, None, "bytes=150000-"),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, 'W/"1"', "bytes=150000-"),
        ({"Accept-Ranges": "none"}, '"1"', None),
    ],
)
def test_transfer_is_continued_only_where_the_edition_can_be_told(
    scene: Scene, headers: dict[str, str], etag: str | None, asked: str | None
) -> None:
    reply = replace(WHOLE, headers=headers, etag=etag)
    assert scene.get(replace(reply, stop_at=150_000), reply) == "the file; 2 requests"
    assert scene.ranges() == [None, asked]


def test_pieces_that_do_not_belong_together_are_fetched_anew_if_a_hash_tells(
    scene: Scene,
) -> None:
    # The server gives another edition the same ETag.
    said = scene.get(Reply(OTHER, stop_at=200_000), WHOLE, file_hash=SHA256)
    assert said == "the file; 3 requests"
    assert scene.ranges() == [None, "bytes=200000-", None]


def test_partial_file_longer_than_the_file_is_given_up(scene: Scene) -> None:
    scene.get(Reply(BODY + OTHER, stop_at=500_000, ranges=False))
    beyond = Reply(status=416)
    assert scene.get(beyond, WHOLE) == "the file; 2 requests"


@pytest.mark.parametrize("left", [b"", b"{", b"[]", b"{}", b"\xff", b'{"origin": 1}'])
def test_record_of_a_transfer_that_cannot_be_read_is_not_trusted(
    scene: Scene, left: bytes
) -> None:
    scene.get(replace(WHOLE, stop_at=150_000, ranges=False))
    desk = scene.cache / "datasets/.feedline/file.bin"
    (desk / "part.json").write_bytes(left)
    assert scene.get(WHOLE) == "the file; 1 request"
    assert scene.ranges() == [None]
    assert os.listdir(desk) == ["lock"]


def test_body_is_kept_as_it_lies_on_the_server(scene: Scene) -> None:
    packed = Reply(BODY, headers={"Content-Encoding": "gzip"})
    assert scene.get(packed) == "the file; 1 request"
    (headers,) = scene.server.requests["/file.bin"]
    assert headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("value", ["soon", "Mon, 01 Jan 2024 00:00:00 GMT", "-1", "0"])
def test_retry_after_that_makes_no_sense_is_passed_over(
    scene: Scene, value: str
) -> None:
    busy = Reply(status=503, headers={"Retry-After": value})
    assert scene.get(busy, WHOLE) == "the file; 2 requests"


def test_pauses_grow_and_are_as_long_as_the_server_asks_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)
    patient = replace(scene, patience=Patience(pause_seconds=0.5, retries=4))
    assert patient.get(Reply(status=500)).endswith("; 5 requests")
    assert pauses == [1, 2, 4]  # the first retry comes at once
    pauses.clear()
    busy = Reply(status=429, headers={"Retry-After": "7"})
    assert patient.get(busy, busy, WHOLE) == "the file; 3 requests"
    assert pauses == [7, 7]


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(401, "credentials"), (403, "credentials"), (404, "address"), (410, "address")],
)
def test_refusal_is_not_tried_again_and_tells_a_way_out(
    scene: Scene, status: int, remedy: str
) -> None:
    url = scene.server.serve("/file.bin", Reply(status=status))
    with pytest.raises(DownloadError, match=f"answered {status} .*{remedy}") as caught:
        get_file(origin=url, cache_dir=scene.cache)
    assert caught.value.url == url
    assert len(scene.server.requests["/file.bin"]) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_trouble_that_may_pass_is_tried_again(scene: Scene, status: int) -> None:
    assert scene.get(Reply(status=status), WHOLE) == "the file; 2 requests"


def test_server_that_speaks_no_http_is_an_error(scene: Scene) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            for _ in range(3):
                with listener.accept()[0] as connection:
                    connection.recv(1000)
                    connection.sendall(b"hello\r\n\r\n")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(babble)
            said = scene.again(f"http://127.0.0.1:{listener.getsockname()[1]}/file.bin")
    assert said.startswith("`DownloadError`: hello")


def test_certificate_that_is_not_trusted_is_an_error_with_a_way_out(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    def refuse(*_: Any, **__: Any) -> Any:
        raise requests.exceptions.SSLError("CERTIFICATE_VERIFY_FAILED")

    monkeypatch.setattr(requests.Session, "get", refuse)
    with pytest.raises(DownloadError, match="REQUESTS_CA_BUNDLE"):
        get_file(origin="https://127.0.0.1:1/a.txt", cache_dir=scene.cache)


def test_proxy_of_the_environment_is_used(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", scene.server.address)
    monkeypatch.setenv("no_proxy", "")
    url = "http://data.invalid/file.bin"
    scene.server.serve(url, WHOLE)  # what a proxy is asked for is the whole URL
    came = get_file(origin=url, cache_dir=scene.cache)
    assert Path(came).read_bytes() == BODY


def test_redirect_to_a_file_of_this_machine_is_not_followed(
    scene: Scene, source: Path
) -> None:
    said = scene.get(Reply(status=302, headers={"Location": source.as_uri()}))
    assert said.startswith("`DownloadError`: No connection adapters")


def test_password_is_not_shown_or_kept(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    scene.server.serve("/file.bin", replace(WHOLE, stop_at=10))
    host = scene.server.address.removeprefix("http://")
    with pytest.raises(DownloadError, match=r"http://me:\*\*\*@") as caught:
        get_file(origin=f"http://me:secret@{host}/file.bin", cache_dir=scene.cache)
    shown = str(caught.value) + repr(caught.value) + capsys.readouterr().out
    kept = b"".join(path.read_bytes() for path in scene.cache.rglob("*.json"))
    assert "secret" not in shown
    assert kept
    assert b"secret" not in kept


# ---- other schemes -----------------------------------------------------------------------


def test_file_is_copied_with_its_name_decoded(tmp_path: Path) -> None:
    source = tmp_path / "a b%.txt"
    source.write_bytes(b"1")
    came = get_file("c", source.as_uri(), cache_dir=tmp_path)
    assert Path(came).read_bytes() == b"1"
    came = get_file(origin=f"file://localhost{source.as_uri()[7:]}", cache_dir=tmp_path)
    assert came == str(tmp_path / "datasets/a%20b%25.txt")


@pytest.mark.parametrize(
    "url", ["file:///nowhere/a", "file:///proc", "file://host/proc/1"]
)
def test_file_that_is_none_is_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="there is no such file on this machine"):
        get_file("a", url, cache_dir=tmp_path)


def test_data_is_fetched_from_its_url(tmp_path: Path) -> None:
    came = get_file("a", "data:text/plain;base64,aGVsbG8=", cache_dir=tmp_path)
    assert Path(came).read_bytes() == b"hello"
    with pytest.raises(ValueError, match="proper URL, got 'data:nonsense'"):
        get_file("b", "data:nonsense", cache_dir=tmp_path)


def test_file_is_fetched_by_ftp(tmp_path: Path) -> None:
    with FtpServer({"sub/file.bin": BODY}) as ftp:
        came = get_file(origin=f"{ftp.address}/sub/file.bin", cache_dir=tmp_path)
        assert Path(came).read_bytes() == BODY
        with pytest.raises(DownloadError, match="550"):
            get_file(origin=f"{ftp.address}/missing", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("versions", "starts"), [(True, [0, 150_000]), (False, [0, 0])]
)
def test_ftp_transfer_that_breaks_off_is_continued_if_the_edition_is_told(
    tmp_path: Path, versions: bool, starts: list[int]
) -> None:
    with FtpServer({"file.bin": BODY}, 150_000, versions) as ftp:
        came = get_file(origin=f"{ftp.address}/file.bin", cache_dir=tmp_path)
        assert Path(came).read_bytes() == BODY
        assert ftp.starts == starts


def test_ftp_goes_through_its_proxy(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ftp_proxy", scene.server.address)
    url = "ftp://data.invalid/file.bin"
    scene.server.serve(url, WHOLE)
    came = get_file(origin=url, cache_dir=scene.cache)
    assert Path(came).read_bytes() == BODY


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system of fsspec that is no more than a dict."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_any_other_scheme_goes_through_fsspec(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/bucket/file.bin", BODY)
    came = get_file(origin="memory://bucket/file.bin", cache_dir=tmp_path)
    assert Path(came).read_bytes() == BODY
    with pytest.raises(DownloadError, match="check the address"):
        get_file(origin="memory://bucket/missing", cache_dir=tmp_path)
    with pytest.raises(DownloadError, match="Protocol not known: nonsense"):
        get_file(origin="nonsense://bucket/file", cache_dir=tmp_path)


def test_fsspec_transfer_is_continued_if_the_file_is_the_same(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/bucket/file.bin", BODY)
    opened = memory.open
    offsets: list[int] = []

    class Flaky:
        """Breaks off at the third block, the first time."""

        def __init__(self) -> None:
            self._file = opened("/bucket/file.bin", "rb")

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def seek(self, offset: int) -> None:
            offsets.append(offset)
            self._file.seek(offset)

        def read(self, count: int) -> bytes:
            if len(offsets) == 1 and self._file.tell() >= 2 * count:
                raise RuntimeError("the bucket leaks")
            block: bytes = self._file.read(count)
            return block

    monkeypatch.setattr(memory, "open", lambda *_: Flaky())
    came = get_file(origin="memory://bucket/file.bin", cache_dir=tmp_path)
    assert Path(came).read_bytes() == BODY
    assert offsets == [0, 2 * (1 << 16)]


def test_without_fsspec_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fsspec", "fsspec.core"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        DownloadError, match="s3:// needs fsspec, which is not installed"
    ):
        get_file(origin="s3://bucket/file.bin", cache_dir=tmp_path)


def test_without_the_package_of_its_scheme_the_error_names_it(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    if importlib.util.find_spec("s3fs"):
        return
    with pytest.raises(DownloadError, match="s3fs"):
        get_file(origin="s3://bucket/file.bin", cache_dir=tmp_path)


# ---- many at once, and deaths ------------------------------------------------------------


def test_ten_threads_fetch_once(scene: Scene) -> None:
    url = scene.server.serve("/file.bin", WHOLE)
    start = threading.Barrier(10)

    def fetch(_: int) -> str:
        start.wait()
        return get_file(origin=url, cache_dir=scene.cache)

    with ThreadPoolExecutor(10) as pool, contextlib.redirect_stdout(io.StringIO()):
        assert set(pool.map(fetch, range(10))) == {str(scene.target)}
    assert len(scene.server.requests["/file.bin"]) == 1


def test_lock_of_a_killed_process_blocks_nobody(scene: Scene) -> None:
    scene.target.parent.mkdir(parents=True)
    code = (
        "import sys; from feedline.utils.place import locked\n"
        f"with locked({str(scene.target)!r}, ''):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
    assert scene.get(WHOLE) == "the file; 1 request"


def test_who_waits_long_for_another_says_so(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("feedline.utils.place._QUIET_WAIT", 0.01)
    said = threading.Event()
    monkeypatch.setattr("feedline.utils.console.write", lambda text: said.set())
    scene.target.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with locked(str(scene.target), ""):
            waiting = pool.submit(scene.get, WHOLE)
            assert said.wait(5)
        assert waiting.result(10) == "the file; 1 request"


# ---- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DownloadError, HashMismatchError, CacheError])
def test_error_survives_pickling(kind: type[DownloadError]) -> None:
    error = pickle.loads(pickle.dumps(kind("http://me:pw@x/y", "it broke", "mend it")))
    assert type(error) is kind
    assert isinstance(error, OSError)
    assert (error.url, error.reason) == ("http://me:***@x/y", "it broke")
    assert str(error) == "http://me:***@x/y: it broke; mend it"


def test_write_that_fails_is_said_of_the_cache(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("feedline.utils.transfer.os.fsync", fail)
    assert "`CacheError`: cannot write to" in scene.get(WHOLE)
    assert not list(scene.cache.rglob("part*"))


def test_interrupted_by_the_user_keeps_what_has_come(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("feedline.utils.transfer._Pace.check", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scene.get(WHOLE)
    assert not scene.target.exists()
    assert scene.get(WHOLE) == "the file; 1 request"
    (asked,) = scene.ranges()
    assert asked is not None


def test_nothing_is_put_into_the_system_s_temporary_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir(mode=0o500)
    before = temporary.stat().st_mtime_ns
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    get_file(origin=source.as_uri(), cache_dir=tmp_path / "cache")
    assert temporary.stat().st_mtime_ns == before
