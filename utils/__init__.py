"""What a training loop needs around its loader.

console   a stdout that may be a terminal, a notebook, a file, or gone
cells     how many columns of a terminal a text takes
metrics   one number out of what a step returned, and means of many
progress  where a loop stands, and the line that says so
progbar   Progbar, the line that tells how far training is
fit       fit and History, the reference training loop
"""

from __future__ import annotations

from .fit import History, fit
from .progbar import Progbar

__all__ = ["History", "Progbar", "fit"]
