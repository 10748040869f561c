"""Templates in parameters and conditions: finding `{{…}}` in JSON values, filling it in; no state, no I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .expressions import TemplateError, evaluate
from .filters import UNDEFINED, text

if TYPE_CHECKING:
    from .expressions import Names

__all__ = ["TemplateError", "has_template", "resolve", "truth"]

_HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


def has_template(value: Any) -> bool:
    """True if any string within `value` holds a template."""
    match value:
        case str():
            return "{{" in value and "}}" in value
        case list():
            return any(has_template(item) for item in value)
        case dict():
            return any(has_template(item) for item in value.values())
        case _:
            return False


def resolve(value: Any, scope: Names) -> Any:
    """Replace every template in `value`; a string that is exactly one template keeps the value's type.

    An undefined name is null where it is the whole string and an error within a longer one, as on the server.

    Raises:
        TemplateError: see above, or a broken expression.

    """
    match value:
        case str() if "{{" in value:
            return _render(value, scope)
        case list():
            return [resolve(item, scope) for item in value]
        case dict():
            return {key: resolve(item, scope) for key, item in value.items()}
        case _:
            return value


def _render(template: str, scope: Names) -> Any:
    whole = template.strip()
    if whole.startswith("{{") and whole.endswith("}}") and "{{" not in whole[2:-2]:
        value = evaluate(whole[2:-2], scope)
        return None if value is UNDEFINED else value
    if "{%" in template:
        raise TemplateError("statement tags {% … %} are not part of the embedded engine's templates")
    return _HOLE.sub(lambda hole: _inline(hole.group(1), scope), template)


def _inline(expression: str, scope: Names) -> str:
    value = evaluate(expression, scope)
    if value is UNDEFINED:
        raise TemplateError(f"'{expression.strip()}' is undefined")
    return text(value)


def truth(value: Any) -> bool:
    """Whether a condition's result holds: the words true/false count, other non-empty strings are true."""
    match value:
        case str():
            return value.lower() != "false" and value != ""
        case list() | dict():
            return True
        case _:
            return bool(value)
