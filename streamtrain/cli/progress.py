"""Progress on stderr: a bar on a terminal, a plain line every few seconds otherwise."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any

import click

_PLAIN_S = 5.0


class Progress:
    """Show one piece of work."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Any = None
        self._task: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, fraction: float | None, text: str) -> None:
        """Show how far it is (0 to 1, None if unknown) and a line about it."""
        if self._terminal:
            self._show_bar(fraction, text)
        elif time.monotonic() - self._last >= _PLAIN_S:
            self._last = time.monotonic()
            share = "" if fraction is None else f"{fraction:4.0%}  "
            click.echo(f"{share}{text}", err=True)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            click.echo(text, err=True)

    def _show_bar(self, fraction: float | None, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.description}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        self._bar.update(
            self._task,
            completed=fraction or 0.0,
            total=None if fraction is None else 1.0,
            description=text,
        )
