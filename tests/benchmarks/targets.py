"""What feedline is to reach, with two worker processes unless a row says otherwise."""

from __future__ import annotations

from .result import Target

__all__ = ["TARGETS"]

_PROCESSES, _THREADS = "feedline processes", "feedline threads"
_GROWTH, _IDLE = "growth with the epoch, shuffled", "growth with idle workers"
_FLAT = 1 / 1.1  # the most takes 10 % more than the least, at the most

TARGETS = [
    Target("small", _PROCESSES, 30, "torch tensors"),
    Target("small", _PROCESSES, 5, "keras processes"),
    Target("small", _PROCESSES, 20, "grain"),
    Target("small", _THREADS, 2, "keras threads"),
    Target("mid", _PROCESSES, 12, "torch tensors"),
    Target("mid", _PROCESSES, 20, "keras processes"),
    Target("mid", _PROCESSES, 15, "grain"),
    Target("mid", _PROCESSES, 5, "spdl process pool"),
    Target("big", _PROCESSES, 4, "torch tensors"),
    Target("big", _PROCESSES, 20, "keras processes"),
    Target("big", _PROCESSES, 9, "grain"),
    Target("big", "feedline in place", 9, "torch tensors"),
    Target("big", "feedline in place, 1 worker", 0.85, "copy"),
    Target("nested", _PROCESSES, 10, "torch tensors"),
    Target("nested", _PROCESSES, 5, "keras processes"),
    Target("decode", _PROCESSES, 0.95, "perfect workers"),
    *(
        Target("decode", _PROCESSES, 1, peer)
        for peer in (
            "torch tensors", "torch arrays", "keras threads", "keras processes", "grain",
            "grain, no reader threads", "spdl process pool", "spdl, a share each", "joblib",
        )
    ),
    Target("io, 32 threads", _THREADS, 0.95, "perfect workers"),
    Target("io, 32 threads", f"{_THREADS}, any order", 0.98, "perfect workers"),
    Target("io, 8 processes", _PROCESSES, 0.95, "perfect workers"),
    Target("io, 8 processes", f"{_PROCESSES}, any order", 0.98, "perfect workers"),
    *(
        target
        for who in (_THREADS, _PROCESSES)
        for target in (
            Target("short epochs, no hooks", who, 1),
            Target("short epochs, hooks that change 10 KB", who, 5),
        )
    ),
    Target("first batch of a first epoch", _PROCESSES, 60),
    Target("system calls, small", _PROCESSES, 4),
    Target("system calls, mid", _PROCESSES, 4),
    Target("page faults, small", _PROCESSES, 0),
    Target("page faults, mid", _PROCESSES, 0),
    Target("memory that 4 workers add to a dataset of 2 GB", _PROCESSES, 5),
    Target("10,000 batches kept, 256 descriptors", _PROCESSES, 256),
    Target("import", "feedline alone", 60),
    *(
        target
        for who in (_THREADS, _PROCESSES)
        for target in (
            Target(_GROWTH, f"{who}, epochs of 10^7", _FLAT, f"{who}, epochs of 10^3"),
            Target(_IDLE, f"{who}, 32 idle", _FLAT, f"{who}, 1 idle"),
        )
    ),
]  # fmt: skip
