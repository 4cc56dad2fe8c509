"""File systems that only this process and its children see.

Root may mount in a namespace of its own; others where the system lets them be root in a
namespace of users first.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from .scene import Refused

_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000  # of unshare
_READ_ONLY, _REMOUNT, _BIND = 1, 32, 4096  # of mount
_RECURSIVE, _PRIVATE = 1 << 14, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def small(folder: str, size: str) -> None:
    """Lay an empty file system in memory over a folder, with room for ``size``: "4m".

    Raises:
        Refused: This machine does not allow it.
    """
    _own_namespace()
    _mount("tmpfs", folder, "tmpfs", 0, f"size={size}")


def instead(own: str, folder: str) -> None:
    """Have one's own folder in place of another.

    Raises:
        Refused: This machine does not allow it.
    """
    _own_namespace()
    _mount(own, folder, None, _BIND, None)


def read_only(folder: str) -> None:
    """Make the file system of which a folder is the top read-only.

    Raises:
        Refused: This machine does not allow it.
    """
    _own_namespace()
    _mount("none", folder, None, _REMOUNT | _BIND | _READ_ONLY, None)


def _own_namespace() -> None:
    uid, gid = os.getuid(), os.getgid()
    if uid == 0:
        _expect(_libc.unshare(_NEW_MOUNTS), "a namespace of mounts")
    else:
        _expect(_libc.unshare(_NEW_MOUNTS | _NEW_USERS), "a namespace of users")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    _mount("none", "/", None, _RECURSIVE | _PRIVATE, None)


def _mount(
    source: str, target: str, kind: str | None, flags: int, data: str | None
) -> None:
    texts = (None if text is None else text.encode() for text in (source, target, kind))
    done = _libc.mount(*texts, ctypes.c_ulong(flags), data and data.encode())
    _expect(done, f"a mount over {target}")


def _expect(done: int, what: str) -> None:
    if done:
        raise Refused(
            f"this machine allows no {what}: {os.strerror(ctypes.get_errno())}"
        )
