"""Progress of trainings, shown in the way that fits the place.

On a terminal a bar; in a notebook that a person has open a line that is updated; elsewhere a line every half minute. A
notebook that a program executes (papermill, nbval) shows nothing, for it would stay in the stored output.
"""

import sys
import time

from tqdm import tqdm

EVERY = 30.0  # seconds between lines


class Progress:
    """Of `total` trainings: `advance` when one has ended, `tell` what the running one reports."""

    def __init__(self, total: int, title: str):
        self.total, self.title, self.done = total, title, 0
        self.began = self.last = time.monotonic()
        self.bar = tqdm(total=total, desc=title, unit="run", disable=None if total else True)
        kernel = _kernel()
        self.line = _line_in_notebook() if total and _is_interactive(kernel) else None
        self.lines = bool(total) and self.bar.disable and not kernel

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()

    def advance(self) -> None:
        self.done += 1
        self.bar.update()
        self.tell()

    def tell(self, detail: str = "") -> None:
        text = "; ".join(filter(None, (str(self), detail)))
        if self.line:
            self.line.update({"text/plain": text}, raw=True)
        elif self.lines and (self.done == self.total or time.monotonic() - self.last >= EVERY):
            self.last = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def __str__(self) -> str:
        """As "training: 12 of 61 runs trained, about 5 min left"."""
        spent = time.monotonic() - self.began
        left = f", about {span(spent / self.done * (self.total - self.done))} left" if self.done else ""
        rest = left if self.done < self.total else f", in {span(spent)}"
        return f"{self.title}: {self.done} of {self.total} runs trained{rest}"


def span(seconds: float) -> str:
    """As 12 s, 3 min or 4.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _kernel():
    """The Jupyter kernel that this process is; None in any other."""
    ipython = sys.modules.get("IPython")
    return getattr(ipython and ipython.get_ipython(), "kernel", None)


def _is_interactive(kernel) -> bool:
    """Whether a person has the notebook open: Jupyter's front ends let the kernel ask for input, programs do not."""
    return getattr(kernel, "_allow_stdin", False)


def _line_in_notebook():
    """A line in the output of the running cell that can be updated."""
    from IPython.display import display

    return display({"text/plain": ""}, raw=True, display_id=True)
