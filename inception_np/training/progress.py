"""What a run says while it runs, on standard error: a bar on a terminal, plain lines in a pipe.

What cannot be written is dropped (data/streams.py): a run goes on without its terminal, its reader or disk space.
"""

import sys
import time
from typing import Any

from ..data.streams import Quiet, say


class Progress:
    """The progress of a run, to be used in a `with` block."""

    SILENCE = 10.0  # seconds between two lines within an epoch

    def __init__(self, epochs: int, steps: int) -> None:
        self.epochs, self.steps = epochs, steps
        self.bar: Any = None
        self.started = self.spoke = time.monotonic()
        self.first: int | None = None  # the step at which this process began

    def __enter__(self) -> "Progress":
        out: Any = Quiet(sys.stderr)
        if out.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(), TextColumn("{task.description}"))
            self.bar = Bar(*columns, console=Console(file=out), transient=True)
            self.bar.start()
            self.task = self.bar.add_task("starting", total=self.epochs * self.steps, epoch=f"1/{self.epochs}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def say(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, highlight=False, soft_wrap=True)
        else:
            say(text)

    def step(self, epoch: int, step: int, sums: dict[str, Any]) -> None:
        """To be called after a step. epoch: how many are finished. step, sums: of the present one (state.SUMS)."""
        done, now = epoch * self.steps + step, time.monotonic()
        if self.first is None:
            self.first, self.started = done, now
        if not self.bar and now - self.spoke < self.SILENCE:
            return
        if done == self.first:  # no time of a step is known yet
            return
        rate = (now - self.started) / (done - self.first)
        text = (
            f"loss {sums['main'] / sums['images']:.3f}  accuracy {sums['right'] / sums['images']:6.1%}  "
            f"{sums['images'] / max(sums['seconds'], 1e-9):,.0f} images/s  "
            f"{_clock(rate * (self.epochs * self.steps - done))} left"
        )
        if self.bar:
            self.bar.update(self.task, completed=done, description=text, epoch=f"{epoch + 1}/{self.epochs}")
        elif step < self.steps:
            self.say(f"epoch {epoch + 1}/{self.epochs}, step {step}/{self.steps}  {text}")
            self.spoke = now

    def epoch(self, line: dict[str, Any]) -> None:
        """To be called after an epoch, with its line of log.jsonl."""
        width = len(str(self.epochs))
        self.say(
            f"epoch {line['epoch']:{width}}/{self.epochs}  loss {line['train_loss']:.3f}  "
            f"accuracy {line['train_accuracy']:6.1%}  test loss {line['test_loss']:.3f}  "
            f"test accuracy {line['test_accuracy']:6.1%}  "
            f"{line['images'] / max(line['seconds'], 1e-9):,.0f} images/s  {line['seconds']:.1f} s"
        )
        self.spoke = time.monotonic()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
