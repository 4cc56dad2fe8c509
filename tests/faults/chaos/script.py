"""What an episode does, drawn from (seed, number) and from nothing else."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

POOLS = ("inline", "thread", "fork", "forkserver", "spawn")
PROCESSES = POOLS[2:]

# How often each pool comes up; starting Python anew takes so much longer than forking.
_WEIGHTS = {"inline": 1, "thread": 3, "fork": 5, "forkserver": 2, "spawn": 2}
# Mean seconds between two signals: a batch must have a chance to be built.
PAUSES = {"inline": 0.1, "thread": 0.1, "fork": 0.05, "forkserver": 0.6, "spawn": 0.8}

SIGNALS = ("SIGKILL", "SIGSEGV", "SIGTERM", "SIGSTOP", "SIGINT")
INSIDE = ("crash in a batch", "os._exit", "sys.exit", "exception", "slow batch", "hang")
DEEDS = (
    "break", "reopen", "drop unclosed", "fork of the parent", "second iterator",
    "collection", "kept batch", "written batch", "change between epochs", "large batches",
)  # fmt: skip
FAULTS = (*SIGNALS, *INSIDE)
KINDS = (*FAULTS, *DEEDS)


@dataclass(frozen=True)
class Opening:
    """How a loader is opened.

    Attributes:
        pool: One of ``POOLS``.
        portable: Whether it does without what only Linux has.
        options: What ``Loader`` is given beside the dataset, the seed and the shuffling.
    """

    pool: str
    portable: bool
    options: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """The life of one dataset: epochs of one loader, or of one after the other.

    Attributes:
        seed: Behind the order, the content, and what the consumer does.
        shuffle: Whether the order is shuffled.
        length: Batches in an epoch.
        largest: Bytes of the largest batch.
        passes: Epochs that are begun.
        share: Of the batches, how many a fault strikes inside.
        strikes: Kinds of those faults.
        deeds: What the consumer may do between two batches.
        openings: The loaders, the next one at each reopening.
        room: Bytes of batches that the consumer keeps, at the most.
    """

    seed: int
    shuffle: bool
    length: int
    largest: int
    passes: int
    share: float
    strikes: tuple[str, ...]
    deeds: tuple[str, ...]
    openings: tuple[Opening, ...]
    room: int


@dataclass(frozen=True)
class Script:
    """One episode.

    Attributes:
        seed: Behind the moments of the signals.
        parts: One or two, side by side.
        signals: What strikes from outside.
        haste: How many times as often as usual it does.
    """

    seed: int
    parts: tuple[Part, ...]
    signals: tuple[str, ...]
    haste: float


def draw_script(
    seed: int, number: int, kinds: tuple[str, ...] = KINDS, pool: str | None = None
) -> Script:
    """Draw an episode.

    Args:
        seed: Of the soak.
        number: Of the episode.
        kinds: The faults that may happen.
        pool: The only one, if there is to be only one.
    """
    draw = random.Random(f"{seed} {number}")
    parts = [_part(draw, kinds, pool) for _ in range(draw.choice((1, 1, 2)))]
    signals = tuple(kind for kind in SIGNALS if kind in kinds)
    if len(signals) > 1 and draw.random() < 0.5:  # now some kinds, now all
        signals = tuple(draw.sample(signals, draw.randint(0, len(signals))))
    haste = draw.choice((0.3, 1.0, 2.0))
    return Script(draw.getrandbits(32), tuple(parts), signals, haste)


def _part(draw: random.Random, kinds: tuple[str, ...], pool: str | None) -> Part:
    large = "large batches" in kinds and draw.random() < 0.12
    strikes = tuple(kind for kind in INSIDE if kind in kinds)
    share = draw.choice((0.0, 0.03, 0.1)) if strikes else 0.0
    openings = tuple(_opening(draw, pool, share) for _ in range(8))
    return Part(
        seed=draw.getrandbits(32),
        shuffle=draw.random() < 0.6,
        length=draw.randint(5, 20) if large else draw.choice((1, 7, 20, 40, 60)),
        largest=30_000_000 if large else draw.choice((3000, 50_000, 4_000_000)),
        passes=draw.randint(2, 5),
        share=share,
        strikes=strikes,
        deeds=tuple(kind for kind in DEEDS if kind in kinds),
        openings=openings,
        room=400_000_000 if large else 30_000_000,
    )


def _opening(draw: random.Random, pool: str | None, share: float) -> Opening:
    if pool is None:
        (pool,) = draw.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
    options: dict[str, Any] = {
        "workers": 0 if pool == "inline" else draw.randint(1, 4),
        "max_queue_size": draw.choice((1, 2, 3, 6, 16)),
        "max_bytes": draw.choice((None, None, 1_000_000, "10MB")),
        "in_order": draw.random() < 0.75,
        "on_error": draw.choice(("raise", "raise", "skip")),
        "retries": draw.choice((0, 0, 1)),
    }
    if pool in PROCESSES:
        options |= {"use_multiprocessing": True, "start_method": pool}
        if share and draw.random() < 0.7:
            options["timeout"] = 2.0
    return Opening(pool, pool in PROCESSES and draw.random() < 0.15, options)
