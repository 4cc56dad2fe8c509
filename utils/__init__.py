"""What a training loop needs around its loader.

console   a stdout that may be a terminal, a notebook, a file, or gone
cells     how many columns of a terminal a text takes
metrics   one number out of what a step returned, and means of many
progress  where a loop stands, and the line that says so
progbar   Progbar, the line that tells how far training is
history   History, what training did
training  where a training run stands
callbacks Callback and EarlyStopping, which look on
fit       fit, the reference training loop
kinds     which library an array belongs to
labels    to_categorical, class labels to one-hot rows
arrays    normalize, arrays scaled to norm 1
packing   x, y and sample_weight as one batch, and back
split     split_dataset, one dataset made two; resting on
          nests            arrays in lists, tuples and dicts, read together
          views            a part of a dataset, by index
          tfdata           a tf.data.Dataset, by index
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
from .callbacks import Callback, EarlyStopping
from .download import get_file
from .download_errors import (
    ArchiveError,
    CacheError,
    DownloadError,
    HashMismatchError,
)
from .fit import fit
from .history import History
from .labels import to_categorical
from .packing import pack_x_y_sample_weight, unpack_x_y_sample_weight
from .progbar import Progbar
from .split import split_dataset

__all__ = [
    "ArchiveError",
    "CacheError",
    "Callback",
    "DownloadError",
    "EarlyStopping",
    "HashMismatchError",
    "History",
    "Progbar",
    "fit",
    "get_file",
    "normalize",
    "pack_x_y_sample_weight",
    "set_random_seed",
    "split_dataset",
    "to_categorical",
    "unpack_x_y_sample_weight",
]
