"""Tests for feedline.utils.archive, inside and unpack, through get_file."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from feedline.utils import ArchiveError, CacheError, get_file
from feedline.utils.archive import Limits
from feedline.utils.inside import leads_to
from feedline.utils.unpack import Unpacking
from tests.utils import hostile_archives as hostile
from tests.utils.download_faults import choices

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = [*hostile.TARS, *hostile.ZIPS]


class Yard:
    """A cache deep inside a folder in which everything else must stay as it is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.victim = root / "victim"
        self.cache = root / "1/2/3/4/cache"
        self.cache.mkdir(parents=True)
        self.victim.mkdir(mode=0o750)
        for folder in (self.victim, *self.cache.relative_to(root).parents):
            (root / folder / "victim.txt").write_bytes(b"mine")

    def __call__(self, packed: bytes, **options: Any) -> Path:
        """Unpack; the folder."""
        source = self.root / "source"
        if not source.exists() or source.read_bytes() != packed:
            source.write_bytes(packed)
        options = {"fname": "data", "extract": True, **options}
        with contextlib.redirect_stdout(io.StringIO()):
            came = get_file(origin=source.as_uri(), cache_dir=self.cache, **options)
        return Path(came)

    @property
    def folder(self) -> Path:
        return self.cache / "datasets" / "data"

    def outside(self) -> dict[str, object]:
        """All that is not in the cache, down to modes and number of names."""
        return {
            str(path): (
                status.st_mode,
                status.st_nlink if path.is_file() else None,
                path.read_bytes() if path.is_file() else None,
            )
            for path in self.root.rglob("*")
            if self.cache not in (path, *path.parents) and path.name != "source"
            for status in [path.lstat()]
        }


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    return Yard(tmp_path)


def packed(yard: Yard, name: str) -> bytes:
    return hostile.every(str(yard.victim))[name]


def tree(folder: Path) -> dict[str, str | bytes]:
    return {
        str(path.relative_to(folder)): (
            f"-> {os.readlink(path)}"
            if path.is_symlink()
            else b"/"
            if path.is_dir()
            else path.read_bytes()
        )
        for path in folder.rglob("*")
    }


def desk(yard: Yard) -> set[str]:
    return set(os.listdir(yard.cache / "datasets/.feedline/data_archive"))


def test_the_corpus_has_at_least_forty_archives() -> None:
    assert len(HOSTILE) >= 40
    assert set(HOSTILE) >= hostile.REFUSED


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_touches_nothing_outside_its_folder(
    yard: Yard, name: str
) -> None:
    data = packed(yard, name)
    before = yard.outside()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if name in hostile.REFUSED:
            with pytest.raises(ArchiveError, match="cannot be unpacked: "):
                yard(data)
            assert not yard.folder.exists()
        else:
            assert yard(data) == yard.folder
            assert (yard.folder / "safe.txt").read_bytes() == hostile.SAFE
            assert (yard.folder / "last.txt").read_bytes() == hostile.SAFE
    assert yard.outside() == before
    assert set(os.listdir(yard.cache / "datasets")) <= {
        "data",
        "data_archive",
        ".feedline",
    }
    assert os.listdir(yard.cache) == ["datasets"]
    assert desk(yard) <= {"lock", "unpacked.json"}
    inside = os.path.realpath(yard.folder)
    for path in yard.folder.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
        assert not mode & (stat.S_ISUID | stat.S_ISGID) or stat.S_ISLNK(mode)
        if stat.S_ISLNK(mode):
            assert not os.readlink(path).startswith("/")
            with contextlib.suppress(RuntimeError, OSError):
                real = os.path.realpath(path, strict=True)
                assert os.path.commonpath([inside, real]) == inside


@pytest.mark.parametrize("name", hostile.TARS)
def test_feedline_s_own_check_would_do_without_python_s_filter(
    yard: Yard, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarfile, "data_filter", lambda member, path: member)
    data = packed(yard, name)
    before = yard.outside()
    with warnings.catch_warnings(), contextlib.suppress(ArchiveError):
        warnings.simplefilter("ignore", UserWarning)
        yard(data)
    assert yard.outside() == before
    for path in yard.folder.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
        assert not (stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID))
        if path.is_symlink():
            assert (
                leads_to(str(yard.folder), str(path.relative_to(yard.folder)))
                is not None
            )


# Where what keras unpacks is not the same: links that lead out of its folder when all
# is there, links in circles, a "hard link" to a folder; and what comes of them later.
ELSEWISE = {
    "a link that a later one turns": {"a"},
    "through a link that a later one turns": {"a"},
    "hard link to a folder": {"h"},
    "hard link to a symlink": {"h", "a/h"},
    "hard link to a symlink left out": {"h"},
    "over a hard link to a symlink": {"h", "a/h"},
    "through a hard link to a symlink": {"h", "h/victim.txt", "victim.txt"},
    "links in a circle": {"a", "c"},
}


@pytest.mark.parametrize("name", sorted(set(HOSTILE) - hostile.REFUSED))
def test_safe_members_are_those_that_keras_unpacks(
    yard: Yard, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    data = packed(yard, name)
    theirs = yard.root / "1/2/3/4/keras"
    theirs.mkdir()
    source = yard.root / "for-keras"
    source.write_bytes(data)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", UserWarning)
        ours = tree(yard(data))
        try:
            came = keras.utils.get_file(
                "data", source.as_uri(), extract=True, cache_dir=str(theirs)
            )
        except Exception:  # noqa: BLE001  (the whole archive, for one member)
            return
    others = tree(Path(came))
    differing = {
        path for path in {**ours, **others} if ours.get(path) != others.get(path)
    }
    assert differing == ELSEWISE.get(name, set())


def test_each_member_left_out_is_named_at_the_line_of_the_call(yard: Yard) -> None:
    with pytest.warns(UserWarning, match="left out") as caught:
        yard(packed(yard, "file above"))
    names = hostile.upwards("victim.txt")
    assert len(caught) == len(names)
    for name, warning in zip(names, caught, strict=True):
        assert repr(name) in str(warning.message)
        assert Path(warning.filename) == Path(__file__)


def test_warning_made_an_error_leaves_nothing(yard: Yard) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="left out"):
            yard(packed(yard, "file above"))
    assert not yard.folder.exists()
    assert desk(yard) == {"lock"}


# ---- broken archives, and ones that are none -----------------------------------------


def plain(*names: str, data: bytes = b"text" * 1000) -> bytes:
    entries = [hostile.Entry(name, data=data) for name in names]
    return hostile.tar(entries, "")


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "tar": lambda data: data,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_tar_is_unpacked_whatever_compressed_it(yard: Yard, kind: str) -> None:
    assert tree(yard(COMPRESSED[kind](plain("sub/one")))) == {
        "safe.txt": hostile.SAFE,
        "sub": b"/",
        "sub/one": b"text" * 1000,
        "last.txt": hostile.SAFE,
    }


def zipped() -> bytes:
    return hostile.zipped([("sub/one", 0o644)], "")


@pytest.mark.parametrize("kind", [*COMPRESSED, "zip"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_truncated_archive_is_an_error_and_leaves_nothing(
    yard: Yard, kind: str, share: float
) -> None:
    tar = plain("one", data=os.urandom(20_000)).rstrip(b"\0")
    data = zipped() if kind == "zip" else COMPRESSED[kind](tar)
    with pytest.raises(ArchiveError, match=r"it is (broken|no tar or zip archive)"):
        yard(data[: int(len(data) * share)])
    assert not yard.folder.exists()
    assert desk(yard) == {"lock"}


def test_tar_cut_off_between_two_members_is_warned_of(yard: Yard) -> None:
    data = plain("one", data=b"x" * 512)
    with pytest.warns(UserWarning, match="has no end mark"):
        yard(data[: 2 * 1024])  # a header and a block for each of two


def test_corrupted_gz_is_noticed_by_its_checksum(yard: Yard) -> None:
    data = bytearray(gzip.compress(plain("one"), compresslevel=0))
    data[data.index(b"texttext") + 100] ^= 1
    with pytest.raises(ArchiveError, match="CRC"):
        yard(bytes(data))
    assert not yard.folder.exists()


def test_corrupted_zip_is_noticed_by_its_checksum(yard: Yard) -> None:
    data = bytearray(zipped())
    data[data.index(hostile.STOLEN)] ^= 1
    with pytest.raises(ArchiveError, match="CRC"):
        yard(bytes(data))
    assert not yard.folder.exists()


def test_encrypted_zip_is_an_error(yard: Yard) -> None:
    data = bytearray(zipped())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    with pytest.raises(ArchiveError, match=r"it is broken: .*password"):
        yard(bytes(data))


@pytest.mark.parametrize(
    "data", [b"", b"text", gzip.compress(b"text")], ids=["nothing", "text", "gz"]
)
def test_file_that_is_no_archive_is_an_error(yard: Yard, data: bytes) -> None:
    with pytest.raises(ArchiveError, match="cannot be unpacked: it is no tar or zip"):
        yard(data)
    assert not yard.folder.exists()


def test_only_the_formats_named_are_tried(yard: Yard) -> None:
    with pytest.raises(ArchiveError, match="it is no zip archive"):
        yard(plain("one"), archive_format="zip")
    with pytest.raises(ArchiveError, match="it is no tar archive"):
        yard(zipped(), fname="other", untar=True, archive_format="zip")
    yard(zipped(), fname="more", archive_format=["tar", "zip"])


# ---- bombs ---------------------------------------------------------------------------

SMALL = Limits(
    free_bytes=100_000,
    ratio=20,
    free_members=10,
    bytes_per_member=1000,
    header_bytes=50_000,
)


def pax_header(size: int) -> bytes:
    """A tar file that begins with a description of many bytes."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.USTAR_FORMAT) + b"1" * size


def sparse(size: int) -> bytes:
    """A tar file with an empty file that says it is large."""
    info = tarfile.TarInfo("x")
    headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": str(size),
        "GNU.sparse.realsize": str(size),
        "GNU.sparse.map": f"{size},0",
    }
    info.pax_headers = headers
    return info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def zip_bomb() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one", bytes(300_000))
    return made.getvalue()


BOMBS = {
    "gz": (gzip.compress(plain("one", data=bytes(300_000))), "bytes would come"),
    "bz2": (bz2.compress(plain("one", data=bytes(300_000))), "bytes would come"),
    "xz": (lzma.compress(plain("one", data=bytes(300_000))), "bytes would come"),
    "gz, after its end": (gzip.compress(plain("one") + bytes(300_000)), "bytes would"),
    "zip": (zip_bomb(), "bytes would come"),
    "sparse": (sparse(10**15), "bytes would come"),
    "header": (gzip.compress(pax_header(60_000)), "one of its headers has 60416 bytes"),
    "members": (gzip.compress(plain(*map(str, range(9)), data=b"")), "more files"),
    "zip members": (hostile.zipped([(str(n), 0) for n in range(9)], ""), "more files"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bomb_is_refused_and_leaves_nothing(yard: Yard, kind: str) -> None:
    data, said = BOMBS[kind]
    with choices(limits=SMALL), pytest.raises(ArchiveError, match=said):
        yard(data)
    assert not yard.folder.exists()
    assert desk(yard) == {"lock"}


def test_large_archive_may_be_unpacked_as_far_as_its_size_allows(yard: Yard) -> None:
    data = gzip.compress(plain(*map(str, range(30)), data=os.urandom(50_000)))
    with choices(limits=SMALL):
        assert len(tree(yard(data))) == 32


# ---- once, and beside what is there --------------------------------------------------


def test_archive_is_unpacked_once(yard: Yard) -> None:
    folder = yard(plain("one"))
    (folder / "one").write_bytes(b"my own change")
    (folder / "mine").write_bytes(b"mine")
    yard(plain("one"))
    assert (folder / "one").read_bytes() == b"my own change"
    assert (folder / "mine").read_bytes() == b"mine"


def test_file_that_was_removed_comes_back(yard: Yard) -> None:
    folder = yard(plain("sub/one", "two"))
    shutil.rmtree(folder / "sub")
    yard(plain("sub/one", "two"))
    assert (folder / "sub/one").exists()


def test_changed_archive_is_unpacked_over_its_former_files_and_no_others(
    yard: Yard,
) -> None:
    folder = yard(plain("one", "gone", data=b"old"))
    (folder / "mine").write_bytes(b"mine")
    yard(plain("one", "new", data=b"new"), force_download=True)
    assert tree(folder) == {
        "safe.txt": hostile.SAFE,
        "one": b"new",
        "gone": b"old",
        "new": b"new",
        "last.txt": hostile.SAFE,
        "mine": b"mine",
    }


def test_file_of_the_user_s_in_the_way_is_an_error_before_anything_is_moved(
    yard: Yard,
) -> None:
    yard.folder.mkdir(parents=True)
    (yard.folder / "one").write_bytes(b"mine")
    with pytest.raises(CacheError, match=r"has 1 other files .* such as 'one'"):
        yard(plain("a", "one", "z"))
    assert tree(yard.folder) == {"one": b"mine"}
    (yard.folder / "one").unlink()
    assert len(tree(yard(plain("a", "one", "z")))) == 5


def test_file_that_the_user_changed_is_not_replaced_by_a_changed_archive(
    yard: Yard,
) -> None:
    folder = yard(plain("one", data=b"old"))
    (folder / "one").write_bytes(b"mine")
    with pytest.raises(CacheError, match="such as 'one'"):
        yard(plain("one", data=b"new"), force_download=True)
    assert (folder / "one").read_bytes() == b"mine"


def test_equal_file_that_was_there_stays_the_user_s(yard: Yard) -> None:
    yard.folder.mkdir(parents=True)
    (yard.folder / "one").write_bytes(b"old")
    yard(plain("one", data=b"old"))
    with pytest.raises(CacheError, match="such as 'one'"):
        yard(plain("one", data=b"new"), force_download=True)
    assert (yard.folder / "one").read_bytes() == b"old"


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing"])
def test_something_where_a_folder_of_the_archive_goes_is_in_the_way(
    yard: Yard, kind: str
) -> None:
    yard.folder.mkdir(parents=True)
    sub = yard.folder / "sub"
    if kind == "file":
        sub.write_bytes(b"mine")
    else:
        sub.symlink_to(yard.victim if kind == "link" else yard.root / "nothing")
    before = tree(yard.folder), yard.outside()
    with pytest.raises(CacheError, match="such as 'sub'"):
        yard(plain("a", "sub/victim.txt"))
    assert (tree(yard.folder), yard.outside()) == before


def test_folder_where_a_file_of_the_archive_goes_is_in_the_way(yard: Yard) -> None:
    (yard.folder / "one").mkdir(parents=True)
    with pytest.raises(CacheError, match="such as 'one'"):
        yard(plain("one"))
    assert tree(yard.folder) == {"one": b"/"}


def test_link_where_a_file_of_the_archive_goes_is_in_the_way(yard: Yard) -> None:
    yard.folder.mkdir(parents=True)
    (yard.folder / "one").symlink_to(yard.victim / "victim.txt")
    before = yard.outside()
    with pytest.raises(CacheError, match="such as 'one'"):
        yard(plain("one"))
    assert yard.outside() == before


def test_empty_folder_of_the_user_s_is_filled(yard: Yard) -> None:
    yard.folder.mkdir(parents=True)
    assert len(tree(yard(plain("one")))) == 3


def test_folder_that_is_a_link_to_one_elsewhere_is_filled_there(yard: Yard) -> None:
    elsewhere = yard.root / "elsewhere"
    elsewhere.mkdir()
    yard.folder.parent.mkdir(parents=True)
    yard.folder.symlink_to(elsewhere)
    yard(plain("sub/one"))
    assert (elsewhere / "sub/one").exists()
    assert yard.folder.is_symlink()


def test_file_where_the_folder_goes_is_an_error_before_anything_is_fetched(
    yard: Yard,
) -> None:
    yard.folder.parent.mkdir(parents=True)
    yard.folder.write_bytes(b"mine")
    with pytest.raises(CacheError, match="is in the way: it is not a folder"):
        yard(plain("one"))
    assert os.listdir(yard.folder.parent) == ["data"]
    assert yard.folder.read_bytes() == b"mine"


def test_remains_of_a_killed_process_are_cleared_away(yard: Yard) -> None:
    room = yard.cache / "datasets/.feedline/data_archive/unpacked"
    room.mkdir(parents=True)
    (room / "half").write_bytes(b"half")
    assert "half" not in tree(yard(plain("one")))
    assert desk(yard) == {"lock", "unpacked.json"}


def test_kill_before_the_record_is_finished_does_not_disown_the_files(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Unpacking._write

    def killed_at_the_end(self: Unpacking, archive: Any, files: Any) -> None:
        if archive is not None:
            raise KeyboardInterrupt
        write(self, archive, files)

    for data in (b"one", b"two", b"three"):
        with monkeypatch.context() as patch:
            patch.setattr(Unpacking, "_write", killed_at_the_end)
            with pytest.raises(KeyboardInterrupt):
                yard(plain("a", data=data), force_download=True)
        assert (yard.folder / "a").read_bytes() == data
    yard(plain("a", data=b"four"), force_download=True)
    assert (yard.folder / "a").read_bytes() == b"four"


def test_record_that_cannot_be_read_is_made_anew(yard: Yard) -> None:
    folder = yard(plain("one"))
    record = yard.cache / "datasets/.feedline/data_archive/unpacked.json"
    for broken in (b"", b"{", b"[]", b"{}", b"\xff"):
        record.write_bytes(broken)
        (folder / "one").unlink()
        yard(plain("one"))
        assert (folder / "one").exists()


# ---- where names lead ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("", ""),
        (".", ""),
        ("a", "a"),
        ("a//b/./c/", "a/b/c"),
        ("a/..", ""),
        ("a/../b", "b"),
        ("..", None),
        ("a/../..", None),
        ("/a", "a"),  # whoever asks decides about absolute names
        ("in", "sub"),
        ("in/x", "sub/x"),
        ("in/..", ""),
        ("in/../..", None),
        ("up", None),
        ("up/x", None),
        ("absolute", None),
        ("circle", None),
        ("sub/back/x", "x"),
        ("file/x", "file/x"),
        ("a\0b", None),
    ],
)
def test_name_leads_to(tmp_path: Path, name: str, place: str | None) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "file").touch()
    for link, target in (
        ("in", "sub"),
        ("up", ".."),
        ("absolute", str(tmp_path)),
        ("circle", "circle"),
        ("sub/back", ".."),
    ):
        (tmp_path / link).symlink_to(target)
    assert leads_to(str(tmp_path), name) == place
