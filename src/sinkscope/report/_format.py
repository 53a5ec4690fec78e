"""Numbers in, words out. Every missing number reads `not available`; nothing small becomes a zero."""

from __future__ import annotations

import math
from typing import Any

NOT_AVAILABLE = "not available"
MINUS = "\u2212"


def is_missing(value: Any) -> bool:
    """True for None, NaN, NaT and pandas' NA."""
    if value is None:
        return True
    try:
        return bool(value != value)
    except TypeError:
        return True


def number(value: Any, *, signed: bool = False) -> str:
    """Three decimals where that shows something, two significant digits below."""
    if is_missing(value):
        return NOT_AVAILABLE
    x = float(value)
    if math.isinf(x):
        return ("+" if x > 0 else MINUS) + "\u221e"
    size = abs(x)
    if size == 0:
        text = "0"
    elif size >= 100:
        text = f"{size:,.0f}"
    elif size >= 10:
        text = f"{size:.1f}"
    elif size >= 1:
        text = f"{size:.2f}"
    elif size >= 0.01:
        text = f"{size:.3f}"
    elif size >= 1e-4:
        text = f"{size:.2g}"
    else:
        text = f"{size:.1e}".replace("e-0", "e-").replace("e-", f"e{MINUS}")
    sign = (MINUS if x < 0 else "+" if signed and x > 0 else "") if size else ""
    return sign + text


def estimate(effect: Any, low: Any, high: Any) -> tuple[str, str]:
    """An effect and its interval with the same decimals: two significant digits of the interval's width."""
    if any(is_missing(v) or math.isinf(float(v)) for v in (effect, low, high)):
        return number(effect, signed=True), interval(low, high)
    width = float(high) - float(low)
    size = width if width > 0 else abs(float(effect))
    places = 0 if size == 0 else min(6, max(0, 1 - math.floor(math.log10(size))))

    def fixed(value: Any) -> str:
        x = float(value)
        if abs(x) < 10.0**-places / 2 and x != 0 and width <= 0:
            return number(x, signed=True)
        return "0" if x == 0 else (MINUS if x < 0 else "+") + f"{abs(x):,.{places}f}"

    return fixed(effect), f"[{fixed(low)}, {fixed(high)}]"


def percent(value: Any) -> str:
    """A share of one as a percentage."""
    if is_missing(value):
        return NOT_AVAILABLE
    x = 100 * float(value)
    if 0 < x < 0.1:
        return "< 0.1 %"
    return f"{x:.1f} %" if x < 10 or 99 < x < 100 else f"{x:.0f} %"


def times(value: Any) -> str:
    """A ratio, for example `3.4\u00d7`."""
    if is_missing(value):
        return NOT_AVAILABLE
    x = float(value)
    return (f"{x:.1f}" if x < 100 else f"{x:,.0f}") + "\u00d7"


def interval(low: Any, high: Any, *, signed: bool = True) -> str:
    """`[low, high]`, or the words when either end is missing."""
    if is_missing(low) or is_missing(high):
        return "interval not available"
    return f"[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def p_value(value: Any) -> str:
    """A p value; small ones as a bound."""
    if is_missing(value):
        return NOT_AVAILABLE
    return "< 0.001" if float(value) < 0.001 else f"{float(value):.3f}"


def count(n: Any, singular: str, plural: str | None = None) -> str:
    """`1 prompt`, `12 prompts`, `1,024 keys`."""
    if is_missing(n):
        return f"{plural or singular + 's'}: {NOT_AVAILABLE}"
    word = singular if int(n) == 1 else plural or singular + "s"
    return f"{int(n):,} {word}"


def listing(words: list[str], last: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def capital(text: str) -> str:
    """First letter upper case, the rest as it is."""
    return text[:1].upper() + text[1:]
