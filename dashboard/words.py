"""Figures in words, as people read them: the same on every page."""

import time
from datetime import UTC, datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of two shares."""
    return f"{100 * difference:+.1f} points"


def count(number: int | None) -> str:
    """A number of things."""
    return "–" if number is None else f"{number:,}"


def num_bytes(size: float) -> str:
    """A number of bytes."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 or size >= 100 else f"{size:.1f} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """A time span, to two units."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def ago(then: float, now: float | None = None) -> str:
    """How long ago something was, in seconds since 1970."""
    seconds = (time.time() if now is None else now) - then
    return "just now" if seconds < 5 else f"{duration(seconds)} ago"


def moment(at: float) -> str:
    """A time in seconds since 1970, to the second, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def plural(number: int, one: str, many: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
