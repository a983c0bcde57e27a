"""A model's compiled fields and answers as JSON Schema."""

from collections.abc import Sequence
from typing import Any

from ml_platform.modeling.bundle import Manifest
from ml_platform.modeling.columns import Kind
from ml_platform.modeling.schema import Field, Rule, anchored, limits_of_length
from ml_platform.modeling.spec import Task
from ml_platform.serving.openapi.parts import Json, record
from ml_platform.serving.reading import WHOLE_LIMIT

PROBABILITY: Json = {"type": "number", "minimum": 0, "maximum": 1}
LIMITS = {
    "greater_than_or_equal_to": "minimum",
    "greater_than": "exclusiveMinimum",
    "less_than_or_equal_to": "maximum",
    "less_than": "exclusiveMaximum",
}


def row_schema(fields: Sequence[Field], *, from_frame: bool = False) -> Json:
    """A row as a JSON object; one from a data frame may have numbers for flags."""
    properties = {field.name: field_schema(field, from_frame=from_frame) for field in fields}
    return record(properties, optional=[field.name for field in fields if field.nullable], closed=True)


def field_schema(field: Field, *, from_frame: bool = False) -> Json:
    """The values that a field takes."""
    schema = _type(field, from_frame=from_frame)
    for rule in field.rules:
        if field.kind is not Kind.TIME:
            _add(schema, _rule(rule, nullable=field.nullable))
    if schema.get("type") == "integer":
        if not schema.keys() & {"minimum", "exclusiveMinimum"}:
            schema["minimum"] = -WHOLE_LIMIT
        if not schema.keys() & {"maximum", "exclusiveMaximum"}:
            schema["maximum"] = WHOLE_LIMIT
    if field.nullable and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    said = _said(field)
    return {**schema, "description": said} if said else schema


def prediction_schema(manifest: Manifest) -> Json:
    """The answer for one row."""
    if manifest.task is Task.REGRESSION:
        return record({"value": {"type": "number"}})
    label: Json = {"enum": list(manifest.classes)}
    if manifest.task is Task.BINARY:
        said = f"How likely it is {manifest.classes[1]!r}"
        return record({"label": label, "probability": {**PROBABILITY, "description": said}})
    return record({"label": label, "probabilities": record({str(name): PROBABILITY for name in manifest.classes})})


def _type(field: Field, *, from_frame: bool) -> Json:
    if field.kind is Kind.TEXT:
        return {"type": "string"}
    if field.kind is Kind.TIME:
        return {"type": "string", "format": "date-time"}
    if field.dtype == "bool":
        gap = [None] if field.nullable else []
        return {"enum": [True, False, 1, 0, *gap]} if from_frame else {"type": "boolean"}
    return {"type": "integer" if field.is_whole else "number"}


def _rule(rule: Rule, *, nullable: bool) -> Json:
    gap = [None] if nullable else []
    match rule.name, rule.value:
        case ("isin", values):
            return {"enum": [*values, *gap]}
        case ("notin", values):
            return {"not": {"enum": list(values)}}
        case ("equal_to", value):
            return {"enum": [value, *gap]}
        case ("not_equal_to", value):
            return {"not": {"enum": [value]}}
        case ("in_range", [low, high, with_low, with_high]):
            return {
                "minimum" if with_low else "exclusiveMinimum": low,
                "maximum" if with_high else "exclusiveMaximum": high,
            }
        case ("str_matches", pattern):
            return {"pattern": anchored(pattern)}
        case ("str_length", allowed):
            low, high = limits_of_length(allowed)
            return _present({"minLength": low, "maxLength": high})
        case (name, value):
            return {LIMITS[name]: value}


def _add(schema: Json, keywords: Json) -> None:
    """A second rule of a kind stands beside the first."""
    if schema.keys() & keywords.keys():
        schema.setdefault("allOf", []).append(keywords)
    else:
        schema |= keywords


def _said(field: Field) -> str:
    """The description, and the rules that JSON Schema has no words for."""
    if field.kind is not Kind.TIME:
        return field.description
    rules = [f"{rule.name} {rule.value}" for rule in field.rules]
    return "; ".join(filter(None, [field.description, "ISO 8601, in UTC unless it has an offset", *rules]))


def _present(keywords: dict[str, Any]) -> Json:
    return {name: value for name, value in keywords.items() if value is not None}
