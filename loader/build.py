"""One batch, built: its random state, and what its exceptions become.

Every pool builds through here, so that a batch does not depend on who built it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import add_note
from .seeding import WorkerInfo, building, rekey_globals

if TYPE_CHECKING:
    from .inplace import Site
    from .records import Order, Task

__all__ = ["Built", "Recipe"]

_END_SIGNS = (StopIteration, StopAsyncIteration, GeneratorExit)


@dataclass(slots=True)
class Built:
    """What came of one order.

    Attributes:
        batch: What ``__getitem__`` returned; None if it raised.
        error: What it raised; None if it returned.
        again: Whether another try may succeed.
    """

    batch: Any
    error: BaseException | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """How batches of one loader are built.

    Attributes:
        seed: Of the loader.
        num_workers: What :class:`~feedline.seeding.WorkerInfo` tells.
        rekey: Whether the global generators are set for each batch. Not in threads,
            which share them.
    """

    seed: int
    num_workers: int
    rekey: bool

    def build(
        self,
        dataset: Any,
        order: Order | Task,
        worker: int,
        site: Site | None = None,
    ) -> Built:
        """Build one batch. Every try begins with the same random state.

        Args:
            dataset: The user's.
            order: Which batch.
            worker: Number of whoever builds it.
            site: Where it is built in place; None for where it is not.

        Raises:
            SystemExit: ``__getitem__`` did. It means the end of whoever builds, and each
                pool decides what that is.
        """
        info = WorkerInfo(worker, self.num_workers, self.seed, order.epoch, order.index)
        if site is not None:
            site.begin(info)
        if self.rekey:
            rekey_globals(info.seed)
        try:
            with building(info):
                return Built(dataset[order.index])
        except SystemExit:
            raise
        except _END_SIGNS as error:
            # Raised on from a generator, these would read as the end of the epoch.
            wrong = RuntimeError(
                f"__getitem__({order.index}) raised {type(error).__name__}; an epoch "
                "ends after num_batches batches, not by an exception"
            )
            wrong.__cause__ = error
            return Built(None, wrong)
        except BaseException as error:  # noqa: BLE001 - it is the user's, and raised
            # where the batch belongs
            add_note(
                error, f"Raised by __getitem__({order.index}) in epoch {order.epoch}"
            )
            return Built(None, error, isinstance(error, Exception))
