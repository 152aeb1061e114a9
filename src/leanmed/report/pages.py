"""Templates to HTML pages, and how a number, an interval and a plot are written on them."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from leanmed.figures.bootstrap import Figure
from leanmed.files import encodable

NOTICE = "Research use only. Not a medical device."
TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **content: Any) -> str:
    """A page of the folder `templates` as one HTML text that can be written as UTF-8.

    Every value is escaped, since file names and labels are not to be trusted, and a value that the template asks for
    and `content` lacks is an error. Templates have the filters `number`, `interval` and `base64`.

    Args:
        template: the template's file name.
        content: the values it shows, besides `notice`.

    Raises:
        jinja2.UndefinedError: a value is missing.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": interval, "base64": _base64}
    return encodable(environment.get_template(template).render({"notice": NOTICE} | content))


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals, or a dash for an undefined one."""
    if value is None or math.isnan(value):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0 turns -0.0 into 0.0


def interval(figure: Figure, digits: int = 3, between: str = " to ") -> str:
    """The interval as `0.770 to 0.850`, or a dash."""
    if math.isnan(figure.low):
        return "–"
    return number(figure.low, digits) + between + number(figure.high, digits)


def _base64(text: str) -> str:
    return base64.b64encode(encodable(text).encode()).decode()
