"""Renders the templates: whatever comes from outside is escaped, bounded and printable."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from setsuden.insight.render import numbers
from setsuden.insight.traces import units

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
_MAX_TEXT = 600


def render(template: str, **view: object) -> str:
    """One whole page: a single file without scripts that fetches nothing."""
    return _environment().get_template(template).render(view)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("setsuden.insight.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.globals["content_security_policy"] = CONTENT_SECURITY_POLICY
    environment.filters.update(
        clip=clip,
        unbroken=unbroken,
        at_least=numbers.at_least,
        percent=numbers.percent,
        count=numbers.count,
        digits=numbers.digits,
        euros=numbers.euros,
        figure=numbers.figure,
        quantity=numbers.quantity,
        volume=numbers.volume,
        cpu=numbers.cpu,
        span=numbers.span,
        duration=units.duration,
    )
    return environment


def _printable(value: object) -> object:
    """Markup as it is; any other value as text without control characters."""
    return value if isinstance(value, Markup) else units.clean(str(value), _MAX_TEXT)


def clip(value: object, limit: int) -> Markup:
    """Text with a limit of its own."""
    return escape(units.clean(str(value), limit))


def unbroken(text: str) -> Markup:
    """Text that a line breaks after commas only."""
    return Markup(", ").join(  # escaped part by part
        escape(part).replace(" ", Markup("&nbsp;")) for part in units.clean(text).split(", ")
    )
