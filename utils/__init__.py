"""What a training loop needs around its loader.

console   a stdout that may be a terminal, a file, or gone
metrics   one number out of what a step returned, and means of many
progbar   Progbar, the line that tells how far training is
fit       fit and History, the reference training loop
nests     arrays in lists, tuples and dicts, read together
views     a part of a dataset, by index
tfdata    a tf.data.Dataset, by index
split     split_dataset, one dataset made two
packing   x, y and sample_weight as one batch, and back
"""

from __future__ import annotations

from .fit import History, fit
from .packing import pack_x_y_sample_weight, unpack_x_y_sample_weight
from .progbar import Progbar
from .split import split_dataset

__all__ = [
    "History",
    "Progbar",
    "fit",
    "pack_x_y_sample_weight",
    "split_dataset",
    "unpack_x_y_sample_weight",
]
