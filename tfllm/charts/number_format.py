"""Number formats, which the terminal and the reports share."""

from __future__ import annotations


def quantity(value: float) -> str:
    """A number with three significant digits, and k, M, B or T for thousands to trillions."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return three_figures(value / size) + letter
    return three_figures(value)


def three_figures(value: float) -> str:
    """Three significant digits without trailing zeros; a whole number from a thousand on."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def rate(value: float) -> str:
    """A learning rate, such as 3e-4."""
    if not value:
        return "0"
    digits, _, power = f"{value:.2e}".partition("e")
    digits = digits.rstrip("0").rstrip(".")
    return f"{digits}e{int(power)}" if value < 0.1 else three_figures(value)


def memory_size(value: float) -> str:
    """Bytes as MiB or GiB."""
    return f"{three_figures(value / 2**30)} GiB" if value >= 2**28 else f"{value / 2**20:.0f} MiB"


def percentage(value: float) -> str:
    """A share as a percentage."""
    return f"{three_figures(100 * value)} %"


def duration(seconds: float) -> str:
    """Seconds in a form such as `2 d 3 h`, `4 h 05 min`, `6 min 07 s` or `8.9 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def perplexity(value: float) -> str:
    """A perplexity with two decimals; a large one as a power of ten."""
    return f"{value:,.2f}" if value < 1e6 else f"{value:.2e}"
