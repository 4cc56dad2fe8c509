"""What a training loop needs around its loader.

console   a stdout that may be a terminal, a file, or gone
metrics   one number out of what a step returned, and means of many
progbar   Progbar, the line that tells how far training is
fit       fit and History, the reference training loop
kinds     which library an array belongs to
labels    to_categorical, class labels to one-hot rows
arrays    normalize, arrays scaled to norm 1

set_random_seed is the engine's, because it seeds loaders too.
"""

from __future__ import annotations

from feedline import set_random_seed

from .arrays import normalize
from .fit import History, fit
from .labels import to_categorical
from .progbar import Progbar

__all__ = [
    "History",
    "Progbar",
    "fit",
    "normalize",
    "set_random_seed",
    "to_categorical",
]
