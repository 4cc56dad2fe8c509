"""What happens to downloads, and what comes of it.

``python -m tests.utils.download_faults`` prints the table that docs/download-files.md
shows; the tests compare the two, row by row.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import re
import sys
import tarfile
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from feedline.utils import DownloadError, get_file
from feedline.utils import download as room
from feedline.utils.archive import Limits
from feedline.utils.transfer import Patience

from . import download_children as children
from .server import Reply, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BODY = random.Random(1).randbytes(400_000)
OTHER = random.Random(2).randbytes(400_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
PATIENCE = Patience(pause_seconds=0.01, retries=2, longest_pause_seconds=5)
_OBTAIN = room.obtain
HASTY = replace(PATIENCE, read_seconds=0.2, slow_seconds=0.3, slow_bytes=5000)


@contextlib.contextmanager
def choices(
    patience: Patience = PATIENCE, limits: Limits | None = None
) -> Iterator[None]:
    """Let get_file be less patient than it is for users."""
    chosen = (patience, limits or Limits())
    with mock.patch.object(room, "obtain", lambda order, *_: _OBTAIN(order, *chosen)):
        yield


@dataclass(frozen=True)
class Scene:
    """Where a fault is played.

    Attributes:
        server: Serves what the fault tells it to.
        cache: An empty folder.
        patience: Of the client.
    """

    server: Server
    cache: Path
    patience: Patience = PATIENCE

    @property
    def target(self) -> Path:
        return self.cache / "datasets" / "file.bin"

    def get(self, *replies: Reply, **options: Any) -> str:
        """Fetch; what came of it in words."""
        url = self.server.serve("/file.bin", *replies)
        return self.again(url, **options)

    def again(
        self, url: str | None = None, expected: bytes = BODY, **options: Any
    ) -> str:
        url = url or self.server.address + "/file.bin"
        before = len(self.server.requests["/file.bin"])
        try:
            with choices(self.patience), contextlib.redirect_stdout(io.StringIO()):
                path = get_file(
                    origin=url, fname="file.bin", cache_dir=self.cache, **options
                )
        except DownloadError as error:
            if self.target.exists() or not error.remedy:
                raise AssertionError(
                    "a wrong file is visible, or no way out"
                ) from error
            reason = re.sub(
                r"only \d+ bytes came in [\d.]+ s", "too slow", error.reason
            )
            said = f"`{type(error).__name__}`: {reason}"
        else:
            assert path == str(self.target)
            assert Path(path).read_bytes() == expected, "the wrong file"
            said = "the file"
        requests = len(self.server.requests["/file.bin"]) - before
        return f"{said}; {requests} request{'s' * (requests != 1)}"

    def ranges(self) -> list[str | None]:
        """What ranges were asked for."""
        return [headers.get("Range") for headers in self.server.requests["/file.bin"]]


WHOLE = Reply(BODY)


def truncated(scene: Scene) -> str:
    return scene.get(replace(WHOLE, stop_at=150_000), WHOLE)


def truncated_always(scene: Scene) -> str:
    said = scene.get(replace(WHOLE, stop_at=150_000, ranges=False))
    assert scene.get(WHOLE).startswith("the file")
    assert scene.ranges() == ["bytes=150000-"]
    return said


def truncated_chunks(scene: Scene) -> str:
    return scene.get(replace(WHOLE, chunked=True, stop_at=150_000), WHOLE)


def dropped_at_every_tenth(scene: Scene) -> str:
    said = set()
    for tenth in range(1, 10):
        at = tenth * len(BODY) // 10
        said.add(scene.get(replace(WHOLE, stop_at=at, reset=True), WHOLE))
        scene.target.unlink()
    (outcome,) = said
    return f"{outcome} each"


def dropped_again_and_again(scene: Scene) -> str:
    tenths = [tenth * len(BODY) // 10 for tenth in range(1, 10)]
    outcome = scene.get(*(replace(WHOLE, stop_at=at) for at in tenths), WHOLE)
    assert scene.ranges() == [None, *(f"bytes={at}-" for at in tenths)]
    return outcome


def dropped_without_ranges(scene: Scene) -> str:
    plain = Reply(BODY, ranges=False)
    return scene.get(replace(plain, stop_at=200_000), plain)


def changed_meanwhile(scene: Scene) -> str:
    first = Reply(OTHER, stop_at=200_000, etag='"0"')
    outcome = scene.get(first, WHOLE)
    assert scene.ranges() == [None, "bytes=200000-"]
    return outcome


def changed_and_spliced(scene: Scene) -> str:
    first = Reply(OTHER, stop_at=200_000, etag='"0"')
    return scene.get(first, replace(WHOLE, if_range=False))


def not_found(scene: Scene) -> str:
    return scene.get(Reply(status=404))


def server_error_once(scene: Scene) -> str:
    return scene.get(Reply(status=500), WHOLE)


def server_error(scene: Scene) -> str:
    return scene.get(Reply(status=500))


def too_many_requests(scene: Scene) -> str:
    return scene.get(Reply(status=429, headers={"Retry-After": "1"}), WHOLE)


def come_back_in_an_hour(scene: Scene) -> str:
    return scene.get(Reply(status=429, headers={"Retry-After": "3600"}))


def stalled_once(scene: Scene) -> str:
    return replace(scene, patience=HASTY).get(replace(WHOLE, hang_at=150_000), WHOLE)


def stalled(scene: Scene) -> str:
    scene = replace(scene, patience=HASTY)
    return scene.get(replace(WHOLE, hang_at=100))


def trickle(scene: Scene) -> str:
    return replace(scene, patience=HASTY).get(replace(WHOLE, trickle=10))


def wrong_hash(scene: Scene) -> str:
    return without_digits(scene, Reply(OTHER))


def without_digits(scene: Scene, wrong: Reply) -> str:
    said = scene.get(wrong, file_hash=SHA256)
    assert scene.get(WHOLE, file_hash=SHA256).startswith("the file")
    return re.sub(r"is [0-9a-f]{64}, not [0-9a-f]{64}", "is ..., not ...", said)


def redirected(scene: Scene) -> str:
    scene.server.serve("/file.bin", WHOLE)
    url = scene.server.serve(
        "/old", Reply(status=302, headers={"Location": "/file.bin"})
    )
    return scene.again(url)


def redirected_for_ever(scene: Scene) -> str:
    return scene.get(Reply(status=302, headers={"Location": "/file.bin"}))


def unknown_length(scene: Scene) -> str:
    return scene.get(replace(WHOLE, length=False))


def unknown_length_truncated(scene: Scene) -> str:
    short = replace(WHOLE, length=False, stop_at=1000)
    return without_digits(scene, short)


def refused(scene: Scene) -> str:
    with Server() as gone:
        url = gone.address
    return scene.again(url + "/file.bin")


def ten_at_once(scene: Scene) -> str:
    url = scene.server.serve("/file.bin", WHOLE)
    got = children.run("crowd", url, scene.cache, 10)
    assert got == [SHA256] * 10
    return f"the file for each; {len(scene.server.requests['/file.bin'])} request"


def killed(scene: Scene, count: int = 20) -> str:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in ("one", "two"):
            member = tarfile.TarInfo(name)
            member.size = len(BODY) // 2
            tar.addfile(member, io.BytesIO(BODY))
    body = packed.getvalue()
    url = scene.server.serve("/a.tar", Reply(body))
    sha256 = hashlib.sha256(body).hexdigest()
    rounds = children.run("kills", url, sha256, scene.cache, count)
    right = {
        "killed": True,
        "before": True,
        "file": True,
        "members": ["one", "two"],
    }
    assert rounds == [right] * count
    return f"after {count} of {count} kills nothing, or the whole file; then the file"


def disk_full(scene: Scene) -> str:
    scene.cache.mkdir()
    url = scene.server.serve("/file.bin", WHOLE)
    small = 'mount -t tmpfs -o size=200k tmpfs "$1"'
    came = children.run("once", url, scene.cache, mount=small, folder=str(scene.cache))
    if came is None:  # no mounts of one's own here: a limit does nearly the same
        came = children.run("once", url, scene.cache, 200_000)
    assert came["files"] == ["datasets/.feedline/file.bin/lock"]
    return f"`{came['error']}`; what had come is removed"


def read_only(scene: Scene) -> str:
    scene.cache.mkdir()
    url = scene.server.serve("/file.bin", WHOLE)
    sealed = 'mount -t tmpfs -o ro tmpfs "$1"'
    came = children.run("once", url, scene.cache, mount=sealed, folder=str(scene.cache))
    if came is None:  # nobody can make a folder there, not even root
        came = children.run("once", url, "/proc/cache")
    assert scene.server.requests["/file.bin"] == []
    return f"`{came['error']}`; 0 requests"


def read_only_with_the_file(scene: Scene) -> str:
    url = scene.server.serve("/file.bin", WHOLE)
    scene.target.parent.mkdir(parents=True)
    scene.target.write_bytes(BODY)
    sealed = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1"'
    came = children.run("once", url, scene.cache, mount=sealed, folder=str(scene.cache))
    if came is None:
        came = children.run("once", url, scene.cache)
    assert came == {"sha256": SHA256, "files": ["datasets/file.bin"]}
    return f"the file; {len(scene.server.requests['/file.bin'])} requests"


FAULTS: dict[str, Callable[[Scene], str]] = {
    "the body is shorter than its Content-Length, once": truncated,
    "... at every attempt": truncated_always,
    "a body in chunks breaks off, once": truncated_chunks,
    "the connection is reset at 10, 20, ... 90 % of the file": dropped_at_every_tenth,
    "it ends at 10 %, and at every further 10 %": dropped_again_and_again,
    "it ends half way, and the server knows no ranges": dropped_without_ranges,
    "the file changes on the server before the transfer is continued": changed_meanwhile,
    "... and the server ignores `If-Range`": changed_and_spliced,
    "404": not_found,
    "500 once": server_error_once,
    "500 at every attempt": server_error,
    "429 with `Retry-After: 1`": too_many_requests,
    "429 with `Retry-After: 3600`": come_back_in_an_hour,
    "nothing more comes, once": stalled_once,
    "nothing more comes, at every attempt": stalled,
    "a trickle, slower than 1 KiB/s": trickle,
    "the hash is wrong": wrong_hash,
    "a redirect": redirected,
    "a redirect loop": redirected_for_ever,
    "the length is not told": unknown_length,
    "... and the body is cut off, which only a hash can tell": unknown_length_truncated,
    "nobody listens": refused,
    "ten processes ask for it at once": ten_at_once,
    "SIGKILL at a random moment, then a retry": killed,
    "the disk is full": disk_full,
    "the cache is read-only": read_only,
    "... and has the file": read_only_with_the_file,
}


def row(name: str, server: Server) -> str:
    """Play one fault; its line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        return f"| {name} | {FAULTS[name](Scene(server, Path(folder, 'cache')))} |"


if __name__ == "__main__":
    sys.stdout.write("| what happens | what you get |\n|---|---|\n")
    with Server() as serving:
        for fault in FAULTS:
            sys.stdout.write(row(fault, serving) + "\n")
            sys.stdout.flush()
