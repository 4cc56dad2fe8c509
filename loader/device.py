"""Batches on a device: copied ahead of the consumer, from where workers wrote them."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .checks import integer
from .leaves import rebuilt

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

__all__ = [
    "Copies", "CudaCopies", "CudaPageLock", "checked_prefetch", "copied_ahead", "moved",
    "usable",
]  # fmt: skip

_ANY_CONTEXT = 1  # cudaHostRegisterPortable: locked for every device

_log = logging.getLogger(__name__)
Tag = TypeVar("Tag")


def usable(device: torch.device | str | None) -> torch.device | None:
    """Check a device.

    Raises:
        TypeError, ValueError: torch knows none of that name, or has none here.
    """
    if device is None:
        return None
    import torch

    if not isinstance(device, (str, torch.device)):
        raise TypeError(
            f"device must be a name like 'cuda' or a torch.device, got {device!r}"
        )
    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device must be one that torch knows, got {device!r}"
        ) from error
    if known.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (known.index or 0) >= count:
            raise ValueError(
                f"device must be a CUDA device that torch finds here, which are {count}, "
                f"got {device!r}; leave device out to train on the processor"
            )
    return known


def checked_prefetch(prefetch: Any) -> int:
    """Check a number of batches.

    Raises:
        TypeError, ValueError: It is none.
    """
    why = "it is the number of batches on their way beside the one that is handed over"
    return integer("prefetch", prefetch, 0, None, why)


def moved(leaf: Any, device: Any, *, non_blocking: bool = False) -> Any:
    """A tensor on the device; anything else is left as it is."""
    import torch

    if not isinstance(leaf, torch.Tensor):
        return leaf
    return leaf.to(device, non_blocking=non_blocking)


class Copies(Protocol):
    """Copies that go on while the consumer computes."""

    def begin(self, batch: Any) -> tuple[Any, Any]:
        """Begin to copy; return the copy and an event that tells its end."""

    def hand_over(self, copy: Any, event: Any) -> Any:
        """Let the consumer's computation wait for the copy, and return it."""


class CudaCopies:
    """Copies to a CUDA device, on a stream beside the consumer's."""

    def __init__(self, device: Any) -> None:
        import torch

        self._device = device
        self._cuda = torch.cuda
        self._stream = torch.cuda.Stream(device)

    def begin(self, batch: Any) -> tuple[Any, Any]:
        """Put the copies into the stream, and an event behind them."""
        with self._cuda.stream(self._stream):
            copy = rebuilt(
                batch, lambda leaf: moved(leaf, self._device, non_blocking=True)
            )
        return copy, self._stream.record_event()

    def hand_over(self, copy: Any, event: Any) -> Any:
        """Make the consumer's stream wait, and keep the copy's memory for it."""
        current = self._cuda.current_stream(self._device)
        current.wait_event(event)
        return rebuilt(copy, lambda leaf: _recorded(leaf, current))


def _recorded(leaf: Any, stream: Any) -> Any:
    if getattr(leaf, "is_cuda", False):
        leaf.record_stream(stream)
    return leaf


def copied_ahead(
    batches: Iterator[tuple[Tag, Any]], copies: Copies, prefetch: int
) -> Iterator[tuple[Tag, Any]]:
    """Copy batches, and hand each over while the next ones are being copied.

    A batch is held until its copy is complete, because its memory is used again as soon
    as it is dropped.

    Args:
        batches: Pairs of a tag, which is handed on, and a batch.
        copies: How to copy.
        prefetch: How many more are copied when one is handed over.
    """
    ahead: deque[tuple[Tag, Any, Any]] = deque()
    sources: deque[tuple[Any, Any]] = deque()

    def handed_over() -> tuple[Tag, Any]:
        tag, copy, event = ahead.popleft()
        return tag, copies.hand_over(copy, event)

    try:
        for tag, batch in batches:
            copy, event = copies.begin(batch)
            ahead.append((tag, copy, event))
            sources.append((event, batch))
            del batch, copy
            if len(sources) > prefetch + 1:
                sources[0][0].synchronize()
                sources.popleft()
            if len(ahead) > prefetch:
                yield handed_over()
        while ahead:
            yield handed_over()
    finally:
        for event, _ in sources:
            event.synchronize()


class CudaPageLock:
    """Locks memory for CUDA, whose devices then read it without the processor's help."""

    def lock(self, address: int, size: int) -> bool:
        """Register memory with the driver; without it, copies are only slower."""
        import torch

        try:
            code = torch.cuda.cudart().cudaHostRegister(address, size, _ANY_CONTEXT)
            torch.cuda.check_error(code)
        except RuntimeError as error:
            _log.warning(
                "%d bytes of batches could not be page-locked, and their copies to the "
                "device take longer: %s",
                size,
                error,
            )
            return False
        return True

    def unlock(self, address: int, size: int) -> None:
        """Take memory back from the driver."""
        import torch

        torch.cuda.cudart().cudaHostUnregister(address)
