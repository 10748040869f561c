"""Templates in parameters and conditions: finds `{{…}}` in JSON values and replaces it."""

import re
from typing import Any

import msgspec

from .expressions import UNDEFINED, Names, Room, TemplateError, evaluate

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


def resolve(value: Any, scope: Names, room: Room | None = None) -> Any:
    """Replaces every template in `value`; a string that is exactly one template keeps the value's type.

    An undefined name is null if it is the whole string and an error within a longer one, as on the server.

    Raises:
        TemplateError: see above; a broken expression; or the templates build too much.

    """
    room = room or Room()
    match value:
        case str() if "{{" in value:
            return _render(value, scope, room)
        case list():
            return [resolve(item, scope, room) for item in value]
        case dict():
            return {key: resolve(item, scope, room) for key, item in value.items()}
        case _:
            return value


def _render(template: str, scope: Names, room: Room) -> Any:
    whole = template.strip()
    if whole.startswith("{{") and whole.endswith("}}") and "{{" not in whole[2:-2]:
        value = evaluate(whole[2:-2], scope, room)
        return None if value is UNDEFINED else value
    if "{%" in template:
        raise TemplateError("statement tags {% … %} are not part of the embedded engine's templates")
    return _HOLE.sub(lambda hole: _inline(hole[1], scope, room), template)


def _inline(expression: str, scope: Names, room: Room) -> str:
    value = evaluate(expression, scope, room)
    if value is UNDEFINED:
        raise TemplateError(f"'{expression.strip()}' is undefined")
    return _text(value)


def _text(value: Any) -> str:
    """Formats `value` for use inside a longer string."""
    match value:
        case str():
            return value
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case _:
            return msgspec.json.encode(value).decode()


def truth(value: Any) -> bool:
    """True if a condition holds; the string "false" and "" are false, other strings are true."""
    match value:
        case str():
            return value.lower() != "false" and value != ""
        case list() | dict():
            return True
        case _:
            return bool(value)
