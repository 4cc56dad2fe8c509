"""Who takes part: context managers, each giving a function that starts one epoch."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from feedline import Loader

from .workloads import InPlace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .workloads import Stamped

    Epoch = Callable[[], Iterable[Any]]

__all__ = ["CONTESTANTS"]

WORKERS = 2
QUEUE = 10  # batches ahead


@contextmanager
def inline(dataset: Stamped) -> Iterator[Epoch]:
    """No loader at all: the limit that overhead is measured against."""
    yield lambda: iter(dataset)


@contextmanager
def feedline_threads(dataset: Stamped) -> Iterator[Epoch]:
    with Loader(dataset, workers=WORKERS, max_queue_size=QUEUE) as loader:
        yield lambda: loader


@contextmanager
def feedline_processes(dataset: Stamped) -> Iterator[Epoch]:
    with Loader(
        dataset, workers=WORKERS, use_multiprocessing=True, max_queue_size=QUEUE
    ) as loader:
        yield lambda: loader


@contextmanager
def feedline_in_place(dataset: Stamped) -> Iterator[Epoch]:
    with feedline_processes(InPlace(dataset.workload)) as epoch:
        yield epoch


@contextmanager
def torch_tensors(dataset: Stamped) -> Iterator[Epoch]:
    """DataLoader with tensors, which it passes through shared memory."""
    import torch

    class Tensors:
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> Any:
            return tuple(torch.from_numpy(part) for part in dataset[index])

    with _torch_loader(Tensors()) as loader:
        yield lambda: loader


@contextmanager
def torch_arrays(dataset: Stamped) -> Iterator[Epoch]:
    """DataLoader with arrays, which it pickles."""
    with _torch_loader(dataset, collate_fn=_as_it_is) as loader:
        yield lambda: loader


def _as_it_is(batch: Any) -> Any:
    return batch


@contextmanager
def _torch_loader(dataset: Any, **options: Any) -> Iterator[Iterable[Any]]:
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        dataset,
        batch_size=None,
        num_workers=WORKERS,
        persistent_workers=True,
        prefetch_factor=QUEUE // WORKERS,
        **options,
    )
    try:
        yield loader
    finally:
        del loader


@contextmanager
def keras_threads(dataset: Stamped) -> Iterator[Epoch]:
    with _keras_adapter(dataset, processes=False) as epoch:
        yield epoch


@contextmanager
def keras_processes(dataset: Stamped) -> Iterator[Epoch]:
    with _keras_adapter(dataset, processes=True) as epoch:
        yield epoch


@contextmanager
def _keras_adapter(dataset: Stamped, *, processes: bool) -> Iterator[Epoch]:
    """What ``fit`` iterates, with the calls that ``fit`` makes around it."""
    import keras
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    class Same(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(dataset)

        def __getitem__(self, index: int) -> Any:
            return dataset[index]

    adapter = PyDatasetAdapter(
        Same(workers=WORKERS, use_multiprocessing=processes, max_queue_size=QUEUE),
        shuffle=False,
    )

    def epoch() -> Iterator[Any]:
        adapter.on_epoch_begin()
        yield from adapter.get_numpy_iterator()
        adapter.on_epoch_end()

    yield epoch


CONTESTANTS: dict[str, Callable[[Stamped], Any]] = {
    "inline": inline,
    "feedline threads": feedline_threads,
    "feedline processes": feedline_processes,
    "feedline in place": feedline_in_place,
    "torch tensors": torch_tensors,
    "torch arrays": torch_arrays,
    "keras threads": keras_threads,
    "keras processes": keras_processes,
}
