"""Numbers in readable form: 125.8 M, 3.4 MB, 12.3 ms, 50.1 %.

Rounding never makes nearly complete values look complete: 99.98 % is not shown as 100.0 %, and a cosine of 0.9999996 is
not shown as 1.
"""

from __future__ import annotations

import math

__all__ = [
    "bytes_of", "change", "cosine", "count", "interval", "milliseconds", "percent", "points", "seconds", "share",
    "small", "speed", "speed_alone",
]  # fmt: skip

STEPS = ("", "k", "M", "G", "T", "P")
# Cosines nearer to 1 than this are those of equal outputs, but for the rounding of float64 sums.
ROUNDING = 1e-9


def count(number: int) -> str:
    """A number of things.

    Example:
        >>> count(999), count(125_829_120), count(999_960)
        ('999', '125.8 M', '1.0 M')
    """
    return _scaled(number, "")


def bytes_of(number: int | None) -> str:
    """A size in decimal units.

    Example:
        >>> bytes_of(3_400_000), bytes_of(12), bytes_of(None)
        ('3.4 MB', '12 B', '–')
    """
    return "–" if number is None else _scaled(number, "B")


def percent(fraction: float) -> str:
    """A fraction, with one decimal, or as many as tell it from none and from all.

    Example:
        >>> percent(0.501), percent(0.99981), percent(1.0), percent(float("nan"))
        ('50.1 %', '99.98 %', '100.0 %', '–')
    """
    if not math.isfinite(fraction):
        return "–"
    return f"{fraction * 100:.{_decimals(fraction)}f} %"


def _decimals(fraction: float) -> int:
    """How many `percent` shows."""
    value, digits = fraction * 100, 1
    while digits < 6 and value not in (0, 100) and float(f"{value:.{digits}f}") in (0, 100):
        digits += 1
    return digits


def share(fraction: float) -> str:
    """A part of a whole in a list, where more than one decimal would only distract.

    Example:
        >>> share(0.3691), share(0.00001), share(0.0)
        ('36.9 %', '< 0.1 %', '0.0 %')
    """
    return "< 0.1 %" if 0 < fraction < 0.0005 else f"{fraction * 100:.1f} %"


def points(before: float, after: float) -> str:
    """The difference of two percentages, in percentage points, of what `percent` shows of them: the three add up.

    Example:
        >>> points(91.9, 90.4), points(94.4, 92.549), points(99.98, 100.0), points(50.0, 50.0)
        ('-1.5 pp', '-1.9 pp', '+0.02 pp', '0.0 pp')
    """
    if not (math.isfinite(before) and math.isfinite(after)):
        return "–"
    digits = [_decimals(value / 100) for value in (before, after)]
    shown = [round(value, each) for value, each in zip((before, after), digits, strict=True)]
    return f"{_signed(shown[1] - shown[0], max(digits))} pp"


def change(before: float, after: float) -> str:
    """How much more or less, relative to before.

    Example:
        >>> change(200, 100), change(200, 201), change(0, 1)
        ('-50.0 %', '+0.5 %', '–')
    """
    relative = (after - before) / before * 100 if before else math.nan
    return f"{_signed(relative)} %" if math.isfinite(relative) else "–"


def milliseconds(time: float) -> str:
    """A time of three digits.

    Example:
        >>> milliseconds(0.0123), milliseconds(12.34), milliseconds(123.4), milliseconds(4321.0)
        ('0.0123 ms', '12.3 ms', '123 ms', '4.32 s')
    """
    return seconds(time / 1000) if time >= 1000 else f"{_digits(time)} ms"


def seconds(time: float) -> str:
    """A time in seconds, of three digits, down to the millisecond.

    Example:
        >>> seconds(0.5), seconds(75.04), seconds(2e-6)
        ('0.5 s', '75 s', '0 s')
    """
    return f"{_digits(time) if time >= 0.0005 else 0} s"


def speed(speedup: float, low: float | None, high: float | None, *more: str) -> str:
    """How much faster or slower, with the interval and whatever else is to stand beside it.

    Args:
        speedup: Time before over time after.
        low: Lower end of its 95 % interval; None where there is none.
        high: Upper end.
        *more: Further words for the brackets.

    Example:
        >>> speed(1.72, 1.65, 1.8), speed(0.5, 0.4, 0.8, "batch 1"), speed(1.5, None, None)
        ('1.72x faster (95 % interval 1.65-1.80)', '2.00x slower (95 % interval 1.25-2.50, batch 1)', \
'1.50x faster (too few runs for an interval)')
        >>> speed(0.97, 0.9, 1.1)
        'not measurably faster or slower (0.97x, 95 % interval 0.90-1.10)'
    """
    told = "too few runs for an interval" if low is None or high is None else f"95 % interval {interval(low, high)}"
    if low is not None and high is not None and low <= 1 <= high:
        return f"not measurably faster or slower ({', '.join([f'{speedup:.2f}x', told, *more])})"
    return f"{_factor(speedup)} ({', '.join([told, *more])})"


def speed_alone(speedup: float, low: float | None, high: float | None) -> str:
    """The same for a table, where a bare factor could not be told from 1.

    Example:
        >>> speed_alone(1.72, 1.65, 1.8), speed_alone(0.5, 0.4, 0.8), speed_alone(0.97, 0.9, 1.1)
        ('1.72x faster', '2.00x slower', '0.97x')
    """
    return f"{speedup:.2f}x" if low is not None and high is not None and low <= 1 <= high else _factor(speedup)


def interval(low: float, high: float) -> str:
    """The interval of a speed-up; where all of it is slower, that of how many times slower.

    Example:
        >>> interval(1.65, 1.8), interval(0.4, 0.8)
        ('1.65-1.80', '1.25-2.50')
    """
    return f"{1 / high:.2f}-{1 / low:.2f}" if high < 1 else f"{low:.2f}-{high:.2f}"


def _factor(speedup: float) -> str:
    return f"{speedup:.2f}x faster" if speedup >= 1 else f"{1 / speedup:.2f}x slower"


def cosine(value: float) -> str:
    """A cosine, cut off behind the fifth decimal.

    Example:
        >>> cosine(0.9999996), cosine(1.0), cosine(-0.25)
        ('0.99999', '1', '-0.25000')
    """
    if not math.isfinite(value):
        return "–"
    return "1" if value > 1 - ROUNDING else f"{math.floor(value * 1e5) / 1e5:.5f}"


def small(value: float) -> str:
    """An error of any magnitude, in three digits.

    Example:
        >>> small(0.0), small(0.01234), small(1.5e-7), small(float("inf"))
        ('0', '0.0123', '1.5e-07', 'infinite')
    """
    if math.isnan(value):
        return "–"
    return "infinite" if math.isinf(value) else f"{value:.3g}"


def _scaled(number: int, unit: str) -> str:
    if abs(number) < 1000:
        return f"{number} {unit}".rstrip()
    value, step = float(number), 0
    while abs(value) >= 999.95 and step < len(STEPS) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.1f} {STEPS[step]}{unit}"


def _signed(value: float, digits: int = 1) -> str:
    return f"{value:+.{digits}f}" if round(value, digits) else "0.0"


def _digits(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
