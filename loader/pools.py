"""Which pool serves which options.

Each is imported where it is used: threads need none of multiprocessing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .build import Recipe
from .pool import InlinePool

if TYPE_CHECKING:
    from threading import RLock

    from .options import LoaderOptions
    from .pool import Pool

__all__ = ["make_pool"]


def make_pool(
    dataset: Any, options: LoaderOptions, turn: RLock, *, portable: bool
) -> Pool:
    """Make the pool that the options ask for. Workers start with the first epoch.

    Args:
        dataset: The user's.
        options: The loader's, settled.
        turn: Held by whoever talks to the pool.
        portable: True has worker processes do without what only Linux has.
    """
    recipe = Recipe(
        seed=options.seed,
        num_workers=options.workers,
        rekey=options.processes or not options.workers,
    )
    measure = options.max_bytes is not None
    if not options.workers:
        return InlinePool(dataset, recipe, measure=measure)
    if options.processes:
        from .process_pool import ProcessPool

        return ProcessPool(dataset, recipe, options, turn, portable=portable)
    from .thread_pool import ThreadPool

    return ThreadPool(
        dataset, recipe, options.workers, options.worker_init_fn, measure=measure
    )
