"""feedline: batches built ahead, each exactly once and in order.

The map of the rooms is in this folder's README.md.
"""

from .collate import collate
from .dataset import PyDataset, has_hooks
from .default_seed import draw_seed, set_random_seed
from .engine import Loader
from .errors import (
    BatchEncodingError,
    BatchTimeoutError,
    DatasetEncodingError,
    LoaderBusyError,
    LoaderClosedError,
    LoaderError,
    LoaderForkedError,
    RemoteError,
    SkipLimitError,
    WorkerDiedError,
    WorkerStartError,
)
from .inplace import empty, stack
from .options import LoaderOptions
from .samples import from_samples
from .seeding import WorkerInfo, get_worker_info
from .stats import LoaderStats, Skipped

__all__ = [
    "BatchEncodingError",
    "BatchTimeoutError",
    "DatasetEncodingError",
    "Loader",
    "LoaderBusyError",
    "LoaderClosedError",
    "LoaderError",
    "LoaderForkedError",
    "LoaderOptions",
    "LoaderStats",
    "PyDataset",
    "RemoteError",
    "SkipLimitError",
    "Skipped",
    "WorkerDiedError",
    "WorkerInfo",
    "WorkerStartError",
    "collate",
    "draw_seed",
    "empty",
    "from_samples",
    "get_worker_info",
    "has_hooks",
    "set_random_seed",
    "stack",
]
