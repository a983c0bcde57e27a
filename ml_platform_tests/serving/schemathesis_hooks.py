"""What an OpenAPI document cannot say: there are as many keys as rows, and a whole number is not written as 3.0."""

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: Any, kwargs: dict[str, Any]) -> None:  # noqa: ARG001 - the signature of a hook
    """Send rows as they are meant; whatever else is wrong with them stays wrong."""
    match case.body:
        case {"rows": [*rows], **more}:
            keys = more.get("keys")
            if isinstance(keys, list) and len(keys) != len(rows):
                more.pop("keys")
            case.body = {"rows": [_as_meant(row) for row in rows], **more}


def _as_meant(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value for name, value in row.items()
    }
