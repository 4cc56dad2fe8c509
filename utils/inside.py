"""Names inside a folder: where they lead, and which there are."""

from __future__ import annotations

import errno
import os

__all__ = ["contents", "leads_to"]

_LINKS = 40  # as many as Linux follows before it calls them a loop


def leads_to(folder: str, name: str) -> str | None:
    """Where a name within a folder leads, through the links that are there.

    Args:
        folder: Where to begin, and what not to leave.
        name: Slash-separated; what does not exist stands for a file or folder to be.

    Returns:
        The place relative to ``folder``, free of links and dots; None if the way there
        goes out of the folder, by ``..``, by an absolute link or by too many links.

    Raises:
        OSError: A name on the way is longer than names may be.
    """
    # Not os.path.realpath: where a path grows too long, it returns it unresolved.
    way, place, links = name.split("/")[::-1], list[str](), 0
    while way:
        step = way.pop()
        if step in ("", "."):
            continue
        if step == "..":
            if not place:
                return None
            place.pop()
            continue
        place.append(step)
        try:
            link = os.readlink(os.path.join(folder, *place))
        except OSError as error:
            # Not a link, not there, or below a file: nothing that leads on.
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                continue
            raise
        except ValueError:  # a null character
            return None
        links += 1
        if links > _LINKS or link.startswith("/"):
            return None
        place.pop()
        way += link.split("/")[::-1]
    return "/".join(place)


def contents(folder: str) -> list[str]:
    """Names of all files and links below a folder, relative to it; links count as such."""
    found = []
    for path, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(path, name))]
        where = os.path.relpath(path, folder)
        found += [os.path.normpath(os.path.join(where, name)) for name in files + links]
    return sorted(found)
