"""Archives that try to get out of the folder they are unpacked into.

Each has a member ``safe.txt``, which is to be unpacked whatever the others try; the ones
in ``REFUSED`` contradict themselves, and nothing at all is to come of them. ``{victim}``
in a name stands for the absolute path of a folder that must stay as it is.
"""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from dataclasses import dataclass

SAFE = b"safe"
STOLEN = b"stolen"


@dataclass(frozen=True)
class Entry:
    """A member of a tar file."""

    name: str
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    data: bytes = b""
    mode: int = 0o644
    mtime: float = 0
    pax: tuple[tuple[str, str], ...] = ()


def file(name: str, mode: int = 0o644) -> Entry:
    return Entry(name, data=STOLEN, mode=mode)


def folder(name: str, mode: int = 0o755) -> Entry:
    return Entry(name, tarfile.DIRTYPE, mode=mode)


def symlink(name: str, link: str) -> Entry:
    return Entry(name, tarfile.SYMTYPE, link)


def hardlink(name: str, link: str) -> Entry:
    return Entry(name, tarfile.LNKTYPE, link)


def upwards(name: str) -> list[str]:
    return ["../" * count + name for count in range(1, 7)]


def longer_than_a_path_may_be() -> list[Entry]:
    """Links whose resolved path outgrows PATH_MAX, where ``realpath`` gives up."""
    entries, here = [], ""
    for letter in "abcdefghijklmnop":
        name = letter * 247
        entries += [folder(here + name), symlink(here + letter, name)]
        here += f"{letter}/"
    return [
        *entries,
        symlink(here + "l" * 254, "../" * 16),
        symlink("escape", here + "l" * 254 + "/../.."),
        file("escape/victim.txt"),
        file(here + "l" * 254 + "/../victim.txt"),
    ]


SAFE_ENTRY = Entry("safe.txt", data=SAFE)

TARS: dict[str, list[Entry]] = {
    "file above": [file(name) for name in upwards("victim.txt")],
    "absolute file": [file("{victim}/victim.txt")],
    "absolute with two slashes": [file("/{victim}/victim.txt")],
    "new absolute file": [file("{victim}/new.txt")],
    "down and up": [file("a/../../victim.txt"), file("a/b/../../../../victim.txt")],
    "dot, then up": [file("./../victim.txt"), file("./.././../victim.txt")],
    "folder above": [folder(name) for name in upwards("new")],
    "folder that is the one above": [folder(".."), folder("../"), folder("a/../..", 0)],
    "absolute folder": [folder("{victim}/new"), folder("{victim}", 0o777)],
    "symlink up": [symlink("out", ".."), symlink("outer", "../../..")],
    "absolute symlink": [symlink("out", "{victim}"), symlink("root", "/")],
    "through a symlink up": [
        *(symlink(f"out{i}", up) for i, up in enumerate(upwards("."))),
        *(file(f"out{i}/victim.txt") for i in range(6)),
    ],
    "through an absolute symlink": [
        symlink("out", "{victim}"),
        file("out/victim.txt"),
        folder("out/new"),
    ],
    "through /proc": [symlink("out", "/proc/self/cwd"), file("out/victim.txt")],
    "through a chain": [
        symlink("a", "b"),
        symlink("b", "c"),
        symlink("c", ".."),
        file("a/victim.txt"),
        folder("a"),
        folder("a/new"),
    ],
    "through a link that stays, and up": [
        folder("d/e"),
        symlink("l", "d/e/.."),
        file("l/../../victim.txt"),
        symlink("m", "l/../.."),
        file("m/victim.txt"),
    ],
    "through a link that a later one turns": [
        symlink("a", "d/b/../.."),
        folder("d"),
        symlink("d/b", ".."),
        file("a/victim.txt"),
    ],
    "a link that a later one turns": [
        symlink("a", "d/b/../../victim.txt"),
        folder("d"),
        symlink("d/b", "../d"),
    ],
    "through a link made anew": [
        folder("d"),
        symlink("l", "d"),
        file("l/inside.txt"),
        symlink("l", "../.."),
        file("l/victim.txt"),
    ],
    "over a link to a file": [
        *(symlink(f"f{i}", up) for i, up in enumerate(upwards("victim.txt"))),
        *(file(f"f{i}") for i in range(6)),
    ],
    "over an absolute link to a file": [
        symlink("f", "{victim}/victim.txt"),
        file("f"),
    ],
    "hard link to a file above": [
        hardlink(f"h{i}", up) for i, up in enumerate(upwards("victim.txt"))
    ],
    "hard link to an absolute file": [hardlink("h", "{victim}/victim.txt")],
    "over a hard link": [
        *(hardlink(f"h{i}", up) for i, up in enumerate(upwards("victim.txt"))),
        *(file(f"h{i}") for i in range(6)),
    ],
    "hard link whose name is above": [hardlink(up, "safe.txt") for up in upwards("h")],
    "hard link with an absolute name": [hardlink("{victim}/h", "safe.txt")],
    "hard link to a symlink": [
        folder("a/b"),
        symlink("a/b/l", "../../safe.txt"),
        hardlink("h", "a/b/l"),
        hardlink("a/h", "a/b/l"),
    ],
    "through a hard link to a symlink": [
        folder("a/b/c"),
        symlink("a/b/c/l", "../../.."),
        hardlink("h", "a/b/c/l"),
        file("h/victim.txt"),
        file("h/../victim.txt"),
        file("h/../../victim.txt"),
    ],
    "over a hard link to a symlink": [
        folder("a/b"),
        symlink("a/b/l", "../../victim.txt"),
        hardlink("h", "a/b/l"),
        hardlink("a/h", "a/b/l"),
        file("h"),
        file("a/h"),
    ],
    "hard link to a symlink left out": [
        symlink("l", "{victim}/victim.txt"),
        hardlink("h", "l"),
        file("h"),
    ],
    "hard link through a symlink": [
        symlink("out", "{victim}"),
        hardlink("h", "out/victim.txt"),
        file("h"),
    ],
    "hard link to what comes later": [hardlink("h", "late"), file("late")],
    "hard link to nothing": [hardlink("h", "nothing")],
    "hard link to itself": [hardlink("h", "h")],
    "hard link to a folder": [folder("d"), hardlink("h", "d"), hardlink("i", ".")],
    "character device": [Entry("null", tarfile.CHRTYPE)],
    "block device": [Entry("disk", tarfile.BLKTYPE)],
    "pipe": [Entry("pipe", tarfile.FIFOTYPE)],
    "pipe above": [Entry("../pipe", tarfile.FIFOTYPE)],
    "set-user-id": [file("suid", 0o6755), folder("sgid", 0o3777)],
    "folder without permissions": [folder("d", 0), file("d/in.txt")],
    "longer than a path may be": longer_than_a_path_may_be(),
    "links in a circle": [symlink("a", "b"), symlink("b", "a"), symlink("c", "c")],
    "through links in a circle": [symlink("a", "b"), symlink("b", "a"), file("a/x")],
    "names of dots": [file("."), file(".."), file("a/.."), symlink(".", "x")],
    "name with a null in its header": [
        Entry("x", data=STOLEN, pax=(("path", "a\0/../../victim.txt"),))
    ],
    "name from a header": [
        Entry("x", data=STOLEN, pax=(("path", "../../victim.txt"),)),
        Entry("y", tarfile.SYMTYPE, "safe.txt", pax=(("linkpath", "{victim}"),)),
        file("y/victim.txt"),
    ],
    "name longer than a header": [file("d/" * 80 + "../" * 85 + "victim.txt")],
    "backslashes": [file("..\\victim.txt"), file("C:\\victim.txt")],
    "the same name again and again": [
        file("x"),
        symlink("x", "safe.txt"),
        symlink("x", "../victim.txt"),
        file("y"),
        file("y"),
    ],
    "a folder that becomes a link": [folder("d"), symlink("d", "e")],
    "a file that becomes a folder": [file("f"), file("f/in.txt")],
    "a folder that becomes a file": [folder("d"), file("d")],
    "name too long": [file("n" * 300)],
}

ZIPS: dict[str, list[tuple[str, int]]] = {
    "zip: file above": [(name, 0o644) for name in upwards("victim.txt")],
    "zip: absolute file": [("{victim}/victim.txt", 0o644), ("/{victim}/new", 0o644)],
    "zip: down and up": [("a/../../victim.txt", 0o644), ("./../victim.txt", 0o644)],
    "zip: folder above": [("../new/", 0o755), ("{victim}/new/", 0o755)],
    "zip: symlink by its mode": [("{victim}", stat.S_IFLNK | 0o777)],
    "zip: a link's text in a file": [("link", stat.S_IFLNK | 0o777)],
    "zip: through a symlink": [
        ("link", stat.S_IFLNK | 0o777),
        ("link/victim.txt", 0o644),
    ],
    "zip: device by its mode": [("device", stat.S_IFCHR | 0o666)],
    "zip: set-user-id": [("suid", stat.S_IFREG | 0o6755)],
    "zip: backslashes": [("..\\victim.txt", 0o644), ("C:/../../victim.txt", 0o644)],
    "zip: names of dots": [("..", 0o644), (".", 0o644), ("a/..", 0o644)],
    "zip: null in the name": [("a\0/../../victim.txt", 0o644)],
}

REFUSED = {
    "longer than a path may be",
    "a folder that becomes a link",
    "a file that becomes a folder",
    "a folder that becomes a file",
    "name too long",
    "zip: through a symlink",
}


def tar(entries: list[Entry], victim: str, mode: str = "w") -> bytes:
    """A tar file with ``safe.txt`` first and last of all but it."""
    packed = io.BytesIO()
    opened = tarfile.open(  # noqa: SIM115
        fileobj=packed,
        mode=mode,  # type: ignore[call-overload]
        format=tarfile.PAX_FORMAT,
    )
    with opened as archive:
        for entry in [SAFE_ENTRY, *entries, Entry("last.txt", data=SAFE)]:
            info = tarfile.TarInfo(entry.name.replace("{victim}", victim))
            info.type, info.mode, info.mtime = entry.kind, entry.mode, entry.mtime
            info.linkname = entry.link.replace("{victim}", victim)
            info.size = len(entry.data)
            info.devmajor, info.devminor = 1, 3
            info.pax_headers = {
                key: value.replace("{victim}", victim) for key, value in entry.pax
            }
            archive.addfile(info, io.BytesIO(entry.data))
    return packed.getvalue()


def zipped(entries: list[tuple[str, int]], victim: str) -> bytes:
    """A zip file with ``safe.txt`` first and ``last.txt`` last."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("safe.txt", SAFE)
        for name, mode in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("{victim}", victim)
            info.external_attr = mode << 16
            archive.writestr(info, STOLEN)
        archive.writestr("last.txt", SAFE)
    return packed.getvalue()


def every(victim: str) -> dict[str, bytes]:
    """All of them, by name."""
    tars = {name: tar(entries, victim) for name, entries in TARS.items()}
    return tars | {name: zipped(entries, victim) for name, entries in ZIPS.items()}
