"""A few bars at a clock of their own: what they look like, wherever this is run.

``python screens.py`` draws them on the stdout it has; ``python screens.py notebook``
draws them in the cell of a notebook, and prints what the cell then holds as JSON.
"""

from __future__ import annotations

import json
import sys

from feedline.utils import Progbar, progbar


class Clock:
    """Stands in for ``time``: it is looked at once a step, and all steps are alike."""

    def __init__(self, step: float) -> None:
        self._now = 0.0
        self._step = step

    def monotonic(self) -> float:
        self._now += self._step
        return self._now


def let_a_step_take(seconds: float) -> None:
    vars(progbar)["time"] = Clock(seconds)


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def draw() -> None:
    """Draw an epoch, data of unknown length, a download, and a third of an epoch."""
    let_a_step_take(0.12)
    say("Epoch 1/2\n")
    bar = Progbar(100)
    for step in range(1, 101):
        bar.update(step, {"loss": 3 / (step + 2), "accuracy": 1 - 1 / (step + 1)})

    bar = Progbar(None, unit_name="sample")
    for step in range(1, 31):
        bar.update(step, {"損失": 1 / step}, finalize=step == 30)

    let_a_step_take(0.004)
    bar = Progbar(2_000_000, unit_name="B")
    for done in range(50_000, 2_000_001, 50_000):
        bar.update(done)

    let_a_step_take(3)
    say("Epoch 2/2\n")
    bar = Progbar(100, stateful_metrics=["learning_rate"])
    for step in range(1, 38):
        bar.update(step, {"loss": 3 / (step + 2), "learning_rate": 1e-4})


def draw_in_notebook() -> None:
    """Draw in the one cell of a new notebook; print its outputs."""
    import nbclient
    import nbformat

    code = f"import runpy\nrunpy.run_path({__file__!r}, run_name='__main__');"
    cell = nbformat.v4.new_code_cell(code)
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    say(json.dumps(notebook.cells[0].outputs))


if __name__ == "__main__":
    draw_in_notebook() if sys.argv[1:] == ["notebook"] else draw()
