"""What becomes of a batch that failed: tried again, left out, or raised. Pure: no clock."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from .errors import SkipLimitError, brief
from .options import LONGEST_DELAY

if TYPE_CHECKING:
    from .options import LoaderOptions
    from .stats import Counts

__all__ = ["Failures"]

_log = logging.getLogger(__name__)

_MOST_NAMED = 10  # batches that an error names


class Failures:
    """The failures of one epoch.

    Args:
        options: The loader's.
        counts: The loader's.
        epoch: Number of the epoch, from 0.
        length: Batches in it; None for one without end.
    """

    def __init__(
        self, options: LoaderOptions, counts: Counts, epoch: int, length: int | None
    ) -> None:
        self._options = options
        self._counts = counts
        self._epoch = epoch
        self._most = options.most_errors(length)
        self._failed = 0  # batches, for good
        self._last: deque[int] = deque(maxlen=_MOST_NAMED)  # their indices

    def delay(self, tries: int) -> float | None:
        """Count a try that failed.

        Args:
            tries: How often the batch was tried again before.

        Returns:
            Seconds after which it is to be tried again; None if it is not.
        """
        if tries >= self._options.retries:
            return None
        self._counts.retries += 1
        return min(self._options.retry_delay * 2.0**tries, LONGEST_DELAY)

    def leave_out(self, index: int, error: BaseException) -> bool:
        """Count a batch that failed for good.

        Returns:
            Whether it is left out; else its error is to be raised.

        Raises:
            SkipLimitError: No more batches of this epoch may be left out.
        """
        if self._options.on_error != "skip" or not isinstance(error, Exception):
            return False
        self._failed += 1
        self._last.append(index)
        if self._most is not None and self._failed > self._most:
            assert self._options.max_errors is not None
            raise SkipLimitError(
                self._epoch,
                self._failed,
                self._options.max_errors,
                self._most,
                tuple(self._last),
            ) from error
        self._counts.skip(self._epoch, index, brief(error))
        _log.warning(
            "batch %d of epoch %d is left out: %s", index, self._epoch, brief(error)
        )
        return True
