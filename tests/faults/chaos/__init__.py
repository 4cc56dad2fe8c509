"""The chaos soak: loaders among faults of every kind, every batch compared.

Run it: ``python -m tests.faults.chaos --minutes 60 --seed 1``. Each episode is a function
of (seed, number); ``--episode 17`` plays the one with that number again, alone.

- ``script.py``: what an episode does, drawn from (seed, number)
- ``dataset.py``: batches known by their bytes, and the faults that strike inside them
- ``outside.py``: the faults that strike from outside, at any moment
- ``reference.py``: the undisturbed inline run
- ``life.py``: loaders among faults, compared with that
- ``episode.py``: one or two of those side by side
- ``log.py``: what the engine says that it left out
- ``tally.py``: what was counted, as a table and as JSON
"""
