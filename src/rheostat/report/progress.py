"""Progress of long commands: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rheostat.lab.execute import Progress


@contextmanager
def study_progress(console: Console) -> Generator[Callable[[Progress], None]]:
    """Yields what `execute` reports to."""
    if not console.is_terminal:
        yield lambda now: _print_line(console, now)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[running]} running, {task.fields[failed]} failed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("runs", total=None, running=0, failed=0)

        def show(now: Progress) -> None:
            if now.warning:
                bar.console.print(now.news, highlight=False, markup=False, soft_wrap=True)
            bar.update(
                task, total=now.total, completed=now.done, running=now.running, failed=now.failed
            )

        yield show


def _print_line(console: Console, now: Progress) -> None:
    if now.news:
        console.print(
            f"{now.done}/{now.total}  {now.news}", highlight=False, markup=False, soft_wrap=True
        )
