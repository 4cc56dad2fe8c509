"""What a training loop needs around its loader.

console   a stdout that may be a terminal, a file, or gone
metrics   one number out of what a step returned, and means of many
progbar   Progbar, the line that tells how far training is
fit       fit and History, the reference training loop
kinds     which library an array belongs to
labels    to_categorical, class labels to one-hot rows
arrays    normalize, arrays scaled to norm 1
download  get_file, a file from a URL in the cache; resting on
          place            where in the cache
          checksum         the hash that it must have
          source           bytes from a URL of any scheme
          web, ftp, body   of some of them, and what they have in common
          partial          a file that is not complete yet
          transfer         the one into the other, through interruptions
          inside           where names inside a folder lead
          archive, unpack  what is in it, safely
          download_errors  every way in which it can fail

set_random_seed is the engine's, because it seeds loaders too.
"""

from __future__ import annotations

from feedline import set_random_seed

from .arrays import normalize
from .download import get_file
from .download_errors import (
    ArchiveError,
    CacheError,
    DownloadError,
    HashMismatchError,
)
from .fit import History, fit
from .labels import to_categorical
from .progbar import Progbar

__all__ = [
    "ArchiveError",
    "CacheError",
    "DownloadError",
    "HashMismatchError",
    "History",
    "Progbar",
    "fit",
    "get_file",
    "normalize",
    "set_random_seed",
    "to_categorical",
]
