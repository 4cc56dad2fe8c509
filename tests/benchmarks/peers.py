"""Who takes part: context managers, each giving a function that starts one epoch.

Everyone has the same number of workers and of batches ahead, and keeps its workers from
epoch to epoch where it can.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from feedline import Loader

from .workloads import Arrays, InPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from .workloads import Workload

    Epoch = Callable[[], Iterable[Any]]

__all__ = ["CONTESTANTS", "LIMITS", "OURS", "Terms"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What everyone is given.

    Attributes:
        workers: Threads or processes.
        ahead: Most batches in flight or ready.
    """

    workers: int = 2
    ahead: int = 10


Contestant: TypeAlias = "Callable[[Any, Terms], AbstractContextManager[Epoch]]"


# ---- limits --------------------------------------------------------------------------


@contextmanager
def inline(dataset: Workload, terms: Terms) -> Iterator[Epoch]:
    """No loader at all."""
    yield lambda: map(dataset.__getitem__, range(len(dataset)))


@contextmanager
def copy(dataset: Arrays, terms: Terms) -> Iterator[Epoch]:
    """A bare copy of each array into one warm buffer: what memory allows."""
    x, y = np.empty_like(dataset.x), np.empty_like(dataset.y)

    def epoch() -> Iterator[Any]:
        for index in range(len(dataset)):
            np.copyto(x, dataset.x)
            np.copyto(y, dataset.y)
            x.reshape(-1)[0] = index
            yield x, y

    yield epoch


# ---- feedline ------------------------------------------------------------------------


@contextmanager
def _feedline(dataset: Workload, terms: Terms, **options: Any) -> Iterator[Epoch]:
    options = {"workers": terms.workers, "max_queue_size": terms.ahead, **options}
    with Loader(dataset, **options) as loader:
        yield lambda: loader


threads = partial(_feedline)
processes = partial(_feedline, use_multiprocessing=True)
threads_any_order = partial(threads, in_order=False)
processes_any_order = partial(processes, in_order=False)


def in_place(dataset: Arrays, terms: Terms, **options: Any) -> Any:
    """Worker processes, and a dataset that makes its arrays by ``feedline.empty``."""
    same = InPlace(len(dataset), *dataset.x.shape)
    return processes(same, terms, **options)


in_place_one_worker = partial(in_place, workers=1)


# ---- torch ---------------------------------------------------------------------------


class _Tensors:
    """The same batches as tensors."""

    def __init__(self, dataset: Workload) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        from feedline.torch import as_tensors

        return as_tensors(self.dataset[index])


@contextmanager
def _torch(dataset: Any, terms: Terms) -> Iterator[Epoch]:
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=terms.workers,
        persistent_workers=True,
        prefetch_factor=max(1, terms.ahead // terms.workers),
    )
    yield lambda: loader


def torch_tensors(dataset: Workload, terms: Terms) -> Any:
    """DataLoader with tensors, which it passes through shared memory."""
    return _torch(_Tensors(dataset), terms)


def torch_arrays(dataset: Workload, terms: Terms) -> Any:
    """DataLoader with arrays, which it pickles."""
    return _torch(dataset, terms)


def _as_it_is(batch: Any) -> Any:
    return batch


# ---- Keras ---------------------------------------------------------------------------


@contextmanager
def _keras(dataset: Workload, terms: Terms, *, processes: bool) -> Iterator[Epoch]:
    """What ``fit`` iterates, with the calls that ``fit`` makes around it."""
    import keras
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    class Same(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> Any:
            return dataset[index]

    same = Same(
        workers=terms.workers,
        use_multiprocessing=processes,
        max_queue_size=terms.ahead,
    )
    adapter = PyDatasetAdapter(same, shuffle=False)

    def epoch() -> Iterator[Any]:
        adapter.on_epoch_begin()
        yield from adapter.get_numpy_iterator()
        adapter.on_epoch_end()

    yield epoch


keras_threads = partial(_keras, processes=False)
keras_processes = partial(_keras, processes=True)


# ---- others --------------------------------------------------------------------------


@contextmanager
def _grain(dataset: Workload, terms: Terms, *, readers: bool) -> Iterator[Epoch]:
    """``mp_prefetch``, repeated, because each iterator starts processes of its own.

    What it has built ahead when an epoch begins, it has built while others were timed. So
    each epoch is preceded by one that is not timed.

    Args:
        dataset: What is built.
        terms: Workers and batches ahead.
        readers: Whether each process has reader threads, as by default; they build as many
            batches ahead as everyone else, and not 500.
    """
    import grain
    from absl import flags

    flags.FLAGS.mark_as_parsed()  # it looks at flags of a command line that has none
    options = grain.multiprocessing.MultiprocessingOptions(
        num_workers=terms.workers,
        per_worker_buffer_size=max(1, terms.ahead // terms.workers),
    )
    reading = grain.ReadOptions(0, 0)
    if readers:
        reading = grain.ReadOptions(min(16, terms.ahead), terms.ahead)
    source: Any = grain.MapDataset.source(dataset)
    batches = iter(source.repeat().to_iter_dataset(reading).mp_prefetch(options))

    def epoch() -> Iterator[Any]:
        for batch in islice(batches, len(dataset)):
            del batch
        return islice(batches, len(dataset))

    try:
        yield epoch
    finally:
        batches.close()


grain = partial(_grain, readers=True)
grain_without_readers = partial(_grain, readers=False)


class _Share:
    """Every n-th batch, for a process that builds one share."""

    def __init__(self, dataset: Workload, first: int, step: int) -> None:
        self.dataset, self.first, self.step = dataset, first, step

    def __call__(self) -> _Share:
        return self

    def __iter__(self) -> Iterator[Any]:
        share = range(self.first, len(self.dataset), self.step)
        return map(self.dataset.__getitem__, share)


@contextmanager
def spdl_pool(dataset: Workload, terms: Terms) -> Iterator[Epoch]:
    """A pipeline over a process pool, in a process of its own, with its shared memory."""
    from spdl.pipeline import PipelineBuilder, run_pipeline_in_subprocess

    pipeline = (
        PipelineBuilder()
        .add_source(range(len(dataset)))
        .pipe(
            _build_shared,
            executor=ProcessPoolExecutor(
                terms.workers, initializer=_share, initargs=(dataset,)
            ),
            concurrency=terms.workers,
            output_order="input",
        )
        .add_sink(terms.ahead)
    )
    yield run_pipeline_in_subprocess(
        pipeline.get_config(),
        num_threads=terms.workers,
        arena=_spdl_memory(dataset, terms.ahead),
    ).__iter__


_shared: list[Workload] = []  # in a process of a pool, the dataset


def _share(dataset: Workload) -> None:
    _shared[:] = [dataset]


def _build_shared(index: int) -> Any:
    return _shared[0][index]


@contextmanager
def spdl_shares(dataset: Workload, terms: Terms) -> Iterator[Epoch]:
    """Processes that build a share each into its shared memory, taken from in turn."""
    from spdl.pipeline import iterate_in_subprocess

    ahead = max(1, terms.ahead // terms.workers)
    shares: list[Any] = [
        iterate_in_subprocess(
            _Share(dataset, worker, terms.workers),
            buffer_size=ahead,
            arena=_spdl_memory(dataset, ahead),
        )
        for worker in range(terms.workers)
    ]

    def epoch() -> Iterator[Any]:
        running = [iter(share) for share in shares]
        for index in range(len(dataset)):
            yield next(running[index % len(running)])
        for share in running:  # to its end, so that the next epoch begins anew
            next(share, None)

    yield epoch
    shares.clear()


def _spdl_memory(dataset: Workload, ahead: int) -> Any:
    from spdl.pipeline import SharedMemorySegmentPool

    size = 2**20 + 2 * sum(np.asarray(part).nbytes for part in _leaves(dataset[0]))
    return SharedMemorySegmentPool(size, ahead + 3)


def _leaves(batch: Any) -> Iterator[Any]:
    parts = batch.values() if isinstance(batch, dict) else batch
    return (part for part in parts if isinstance(part, np.ndarray))


@contextmanager
def joblib(dataset: Workload, terms: Terms) -> Iterator[Epoch]:
    """A generator of results from joblib's own processes."""
    from joblib import Parallel, delayed

    with Parallel(
        n_jobs=terms.workers, return_as="generator", pre_dispatch=terms.ahead
    ) as parallel:
        build = delayed(_build)
        yield lambda: parallel(build(dataset, index) for index in range(len(dataset)))


def _build(dataset: Workload, index: int) -> Any:
    return dataset[index]


CONTESTANTS: dict[str, Contestant] = {
    "copy": copy,
    "inline": inline,
    "feedline threads": threads,
    "feedline threads, any order": threads_any_order,
    "feedline processes": processes,
    "feedline processes, any order": processes_any_order,
    "feedline in place": in_place,
    "feedline in place, 1 worker": in_place_one_worker,
    "torch tensors": torch_tensors,
    "torch arrays": torch_arrays,
    "keras threads": keras_threads,
    "keras processes": keras_processes,
    "grain": grain,
    "grain, no reader threads": grain_without_readers,
    "spdl process pool": spdl_pool,
    "spdl, a share each": spdl_shares,
    "joblib": joblib,
}
LIMITS = ("copy", "inline")
OURS = tuple(name for name in CONTESTANTS if name.startswith("feedline"))
