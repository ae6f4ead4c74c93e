"""What commands tell while they work: one kind of bar, with rate and remaining time, on stderr.

``--quiet`` silences all. Knows nothing of molecules, so that every room may use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

T = TypeVar("T")

_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quiet(on: bool = True) -> Iterator[None]:
    """Inside, nothing is told: no bars and no remarks. Errors are exceptions and not touched."""
    before = _QUIET.set(on)
    try:
        yield
    finally:
        _QUIET.reset(before)


def messages() -> Console:
    """Where remarks and bars go: stderr, or nowhere inside ``quiet``."""
    from rich.console import Console

    return Console(stderr=True, quiet=_QUIET.get())


def rate_text(per_second: float | None) -> str:
    """``"12.3/s"``, or ``"4.2 s each"`` of what takes longer than a second; empty where it is not known yet."""
    if not per_second:
        return ""
    return f"{per_second:.3g}/s" if per_second >= 1 else f"{1 / per_second:.3g} s each"


def columns(*before_rest: ProgressColumn) -> list[ProgressColumn]:
    """Of a bar: its text, how many are done (or ``before_rest`` in place of that), rate, time passed and remaining."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(rate_text(task.finished_speed or task.speed), style="progress.data.speed")

    middle = before_rest or (MofNCompleteColumn(),)
    return [
        TextColumn("{task.description}"),
        BarColumn(),
        *middle,
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]


@contextmanager
def progress_bar(total: int | None, text: str, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """``with progress_bar(n, "predicting") as advance``: a bar on stderr; call ``advance(k)`` after each k."""
    from rich.progress import Progress

    with Progress(*columns(), console=messages(), transient=True, disable=not shown) as bar:
        task = bar.add_task(text, total=total)
        yield lambda n: bar.advance(task, n)


def tracked(items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar that advances as they are worked on.

    Args:
        items: anything to go through.
        text: beside the bar.
        total: how many there are, where ``items`` does not tell.
    """
    count = total if total is not None else len(items) if isinstance(items, Sized) else None
    with progress_bar(count, text) as advance:
        for item in items:
            yield item
            advance(1)
