"""feedline: batches built ahead, each exactly once and in order.

The map of the rooms is in this folder's README.md.
"""

from .dataset import PyDataset
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
    WorkerDiedError,
    WorkerStartError,
)
from .inplace import empty, stack
from .options import LoaderOptions
from .seeding import WorkerInfo, get_worker_info
from .stats import LoaderStats

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
    "WorkerDiedError",
    "WorkerInfo",
    "WorkerStartError",
    "draw_seed",
    "empty",
    "get_worker_info",
    "set_random_seed",
    "stack",
]
