"""Numbers, sizes and values of the plan as people read them."""

import math
from dataclasses import dataclass
from typing import Any

from pipeline.records.index import Index


@dataclass(frozen=True)
class Units:
    """What lengths and sizes are given in; `a_ml` of `size` are a millilitre, a picture being 1 mm thick."""

    length: str = "mm"
    size: str = "mL"
    a_ml: float = 1.0
    digits: int = 3

    def shown(self, volume_ml: float, digits: int) -> str:
        """Returns a size for people."""
        return score(volume_ml * self.a_ml, min(digits, self.digits))


def units_of(index: Index) -> Units:
    """Returns millimetres and millilitres; of pictures an area, and pixels where nobody knows their spacing."""
    if not index.are_pictures:
        return Units()
    return Units(size="mm²", a_ml=1000.0) if index.has_spacing else Units("pixels", "pixels", 1000.0, 0)


def score(value: float | None, digits: int = 3) -> str:
    """Returns a number for people; a dash where it is not defined."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def signed_percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:+.1f} %".replace("-", "−")


def plain_text(value: Any) -> str:
    """Returns a value of the plan without brackets and braces."""
    if isinstance(value, dict):
        return "; ".join(f"{key}: {plain_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return f"[{', '.join(plain_text(item) for item in value)}]"
    return "none" if value is None else str(value)
