"""The files of a new model's folder: its plan put into the templates, with THINK where a person must decide."""

import builtins
import keyword
import re
from collections.abc import Sequence

import pandera.polars as pa

from ml_platform.modeling.ingestion import Kind
from ml_platform.modeling.spec import PromotionPolicy, Task
from ml_platform.scaffolding.layout import call, comment, fill, literal, quoted
from ml_platform.scaffolding.plan import Plan, PlannedColumn, Role, is_parameter

MOST_VALUES_LISTED = 12
ROWS_PER_VALUE = 20
LONGEST_LIST = 90
LONGEST_DESCRIPTION = 80
TASK_METRIC = {Task.BINARY: "roc_auc", Task.MULTICLASS: "accuracy", Task.REGRESSION: "r2"}
TYPES = {
    Kind.INTEGER: "int",
    Kind.NUMBER: "float",
    Kind.TEXT: "str",
    Kind.BOOLEAN: "bool",
    Kind.DATE: "pl.Date",
    Kind.TIME: 'Annotated[pl.Datetime, "us", "UTC"]',
}
ENCODE = [
    "encode = make_column_transformer(",
    '    (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_include=object)),',
    '    remainder="passthrough",',
    ")",
]
SCHEMA_NAMES = frozenset({"pa", "pl", *dir(pa.DataFrameModel)})
"""What a column cannot be called inside the schema's class."""


def files_of(plan: Plan) -> dict[str, str]:
    """The text of each file, by name."""
    return {
        "__init__.py": "",
        "spec.py": _spec(plan),
        "schema.py": _schema(plan),
        "features.py": _features(plan),
        "training.py": _training(plan),
        "README.md": _card(plan),
    }


def _spec(plan: Plan) -> str:
    times = {"changed_at": plan.changed_at, "event_time": plan.event_time}
    source = [f"{name}={quoted(column)}" for name, column in times.items() if column]
    source = [quoted(plan.table.name), f"key={quoted(plan.key)}", *source]
    promotion = [f'metric="{TASK_METRIC[plan.task]}"', f"floor={plan.floor}"]
    if plan.holdout != PromotionPolicy.holdout:
        promotion.append(f"holdout={plan.holdout}")
    age = [f"max_source_age=timedelta(days={plan.max_source_age.days})"] if plan.max_source_age else []
    event_time = "THINK: is there a time when the thing itself happened? As event_time it splits training from holdout."
    values = {
        "timedelta_import": ["from datetime import timedelta", ""] if age else [],
        "name": plan.name,
        "name_text": quoted(plan.name),
        "label_words": " ".join(re.findall(r"\w+", plan.label.replace("_", " "))),
        "owner_think": [] if plan.owner else ["# THINK: which team is called when this model fails?"],
        "owner_text": quoted(plan.owner or "team:data"),
        "purpose": call("purpose=", [quoted(f"Predicts {plan.label} for rows of {plan.table.name}.")], ","),
        "event_time_think": [] if plan.event_time else [f"# {event_time}"],
        "source": call("source=PostgresTable(", source, "),", indent=4),
        "label_text": quoted(plan.label),
        "task": plan.task.name,
        "slices": _slices([quoted(column.name) for column in plan.of(Role.SLICE)]),
        "promotion": call("promotion=PromotionPolicy(", promotion, "),", indent=4),
        "rows": plan.table.rows,
        "quality": call("quality=QualityPolicy(", [f"min_rows={plan.min_rows}", *age], "),", indent=4),
        "new_rows": plan.new_rows,
    }
    return fill("spec.py", values)


def _slices(names: list[str]) -> list[str]:
    if not names:
        return ["# THINK: whom could it treat unfairly? Name the columns in slices, and keep them out of the features."]
    alone = "," if len(names) == 1 else ""
    think = "# THINK: protected by their names, so judged apart and never inputs. Are there more, or stand-ins for one?"
    return [think, *call("slices=(", names, f"{alone}),", indent=4)]


def _schema(plan: Plan) -> str:
    groups = (plan.of(Role.KEY, Role.EVENT_TIME, Role.LABEL), plan.of(Role.INPUT), plan.of(Role.SLICE))
    names = _attributes([column for group in groups for column in group])
    fields: list[str] = []
    for group in groups:
        fields += [""] if group and fields else []
        fields += [line for column in group for line in _field(plan, column, names[column.name])]
    has = "\n".join(fields)
    values = {
        "name": plan.name,
        "table": plan.table.name,
        "annotated_import": ["from typing import Annotated", ""] if "Annotated[" in has else [],
        "polars_import": ["import polars as pl"] if "pl." in has else [],
        "flag": ["FLAG = [0, 1]", ""] if "isin=FLAG" in has else [],
        "fields": fields,
    }
    return fill("schema.py", values)


def _field(plan: Plan, column: PlannedColumn, attribute: str) -> list[str]:
    source = column.source
    text_key = column.role is Role.KEY and source.type == "numeric"
    kind = "str" if text_key else TYPES[source.kind]
    given = [f"alias={quoted(column.name)}"] if attribute != column.name else []
    given += [] if column.role is Role.KEY else _rules(column)
    given += ["nullable=True"] if _is_nullable(plan, column) else []
    given += [f"description={quoted(_description(column))}"]
    return call(f"{attribute}: {kind} = pa.Field(", given, ")", indent=4)


def _rules(column: PlannedColumn) -> list[str]:
    """What every value keeps today, and a wrong one would break."""
    source, values = column.source, column.source.distinct
    if source.kind is Kind.BOOLEAN or column.is_time:
        return []
    if source.kind is Kind.INTEGER and set(values) <= {0, 1}:
        return ["isin=FLAG"]
    few = len(values) <= MOST_VALUES_LISTED and len(source.known) >= ROWS_PER_VALUE * len(values)
    classes = column.role in {Role.LABEL, Role.SLICE} and len(values) <= MOST_VALUES_LISTED
    if classes or (few and source.kind is Kind.TEXT):
        listed = f"[{', '.join(map(literal, values))}]"
        return [f"isin={listed}"] if len(listed) <= LONGEST_LIST else []
    return ["ge=0"] if source.kind is not Kind.TEXT and float(str(values[0])) >= 0 else []


def _is_nullable(plan: Plan, column: PlannedColumn) -> bool:
    """A gap nobody has seen deserves quarantine; an unknown label or a gap outside the sample is nothing unusual."""
    if column.role is Role.KEY:
        return False
    unseen = column.role in {Role.LABEL, Role.EVENT_TIME} or not plan.table.is_whole
    return column.source.missing > 0 or (column.source.nullable and unseen)


def _description(column: PlannedColumn) -> str:
    roles = {
        Role.KEY: "What identifies the row",
        Role.LABEL: "What is predicted",
        Role.EVENT_TIME: "When it happened",
        Role.SLICE: "Fairness slice only",
    }
    return column.source.comment[:LONGEST_DESCRIPTION] or roles.get(column.role) or _seen(column)


def _seen(column: PlannedColumn) -> str:
    source = column.source
    if source.kind is Kind.TEXT:
        return f"Seen: {len(source.distinct)} different texts"
    if source.kind is Kind.BOOLEAN:
        return f"Seen: true in {len(source.known.filter(source.known)) / len(source.known):.0%} of the rows"
    low, high = source.distinct[0], source.distinct[-1]
    if column.is_time:
        return f"Seen: {str(low)[:10]} to {str(high)[:10]}"
    return f"Seen: {float(str(low)):.6g} to {float(str(high)):.6g}"


def _attributes(columns: Sequence[PlannedColumn]) -> dict[str, str]:
    """A Python name for each column: its own wherever that works in a class of pandera."""
    names = {c.name: c.name for c in columns if _is_attribute(c.name)}
    for column in columns:
        if column.name not in names:
            name = re.sub(r"[^a-z0-9]+", "_", column.name.lower()).strip("_") or "column"
            name = name if name[0].isalpha() else f"column_{name}"
            while name in names.values() or not _is_attribute(name):
                name += "_"
            names[column.name] = name
    return names


def _is_attribute(name: str) -> bool:
    is_type = isinstance(getattr(builtins, name, None), type)
    plain = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
    return plain and not keyword.iskeyword(name) and not is_type and name not in SCHEMA_NAMES


def _features(plan: Plan) -> str:
    times = [column for column in plan.of(Role.EVENT_TIME, Role.INPUT) if column.is_time and is_parameter(column.name)]
    functions = [line for column in times for line in _time_functions(plan, column)]
    plain = [column for column in plan.of(Role.INPUT) if not column.is_time]
    strongest = ", ".join(f"{name} ({strength:.2f})" for name, strength in plan.strongest)
    values = {
        "name": plan.name,
        "imports": [
            "import numpy as np",
            "",
            "from ml_platform.modeling.columns import Numbers, Times",
            "",
            'EPOCH = np.datetime64("1970-01-01", "us")',
            *(['DAY = np.timedelta64(1, "D")'] if any("DAY" in line for line in functions) else []),
            *(['HOUR = np.timedelta64(1, "h")'] if any("HOUR" in line for line in functions) else []),
            "",
        ]
        if functions
        else [],
        "strongest": comment(f"Strongest alone, of 1 for certainty: {strongest}.") if strongest else [],
        "columns": [
            "COLUMNS = (" if plain else "COLUMNS = ()",
            *(f"    {quoted(c.name)},{f'  # THINK: {c.think}' if c.think else ''}" for c in plain),
            *([")"] if plain else []),
        ],
        "functions": functions,
    }
    return fill("features.py", values)


def _time_functions(plan: Plan, column: PlannedColumn) -> list[str]:
    """A time as numbers: when in the week it happened, or how long before that."""
    name, event = column.name, plan.event_time
    if name == event:
        lines = _function(
            plan,
            f"{name}_weekday",
            [name],
            f"Day of the week of `{name}`, 0 is Monday.",
            [f"return (np.floor(({name} - EPOCH) / DAY) + 3) % 7"],
        )
        if column.source.kind is Kind.TIME:
            returns = f"return np.floor(({name} - EPOCH) / HOUR) % 24"
            lines += _function(plan, f"{name}_hour", [name], f"Hour of the day of `{name}`, in UTC.", [returns])
        return lines
    if event and is_parameter(event):
        says, returns = f"Days from `{name}` to `{event}`.", f"return ({event} - {name}) / DAY"
        return _function(plan, f"days_since_{name}", [name, event], says, [returns])
    think = "# THINK: a date only ever grows; days between two dates say the same thing next year too."
    returns = f"return ({name} - EPOCH) / DAY"
    return _function(plan, f"{name}_days", [name], f"Days from 1970 to `{name}`.", [think, returns])


def _function(plan: Plan, name: str, needs: Sequence[str], says: str, body: Sequence[str]) -> list[str]:
    while name in {column.name for column in plan.table.columns}:
        name += "_"
    head = call(f"def {name}(", [f"{need}: Times" for need in needs], ") -> Numbers:")
    return ["", "", *head, f'    """{says}"""', *(f"    {line}" for line in body)]


def _training(plan: Plan) -> str:
    kind = "HistGradientBoostingRegressor" if plan.task is Task.REGRESSION else "HistGradientBoostingClassifier"
    trees = f"from sklearn.ensemble import {kind}"
    texts = any(column.source.kind is Kind.TEXT for column in plan.of(Role.INPUT))
    values = {
        "name": plan.name,
        "imports": [
            "from sklearn.compose import make_column_selector, make_column_transformer",
            trees,
            "from sklearn.pipeline import Pipeline, make_pipeline",
            "from sklearn.preprocessing import OneHotEncoder",
        ]
        if texts
        else [trees],
        "label": _about_the_label(plan),
        "returns": "Pipeline" if texts else kind,
        "encode": ENCODE if texts else [],
        "trees": f"trees = {kind}(" if texts else f"return {kind}(",
        "leaf": min(max(plan.table.rows // 50, 5), 20),
        "pipeline": ["return make_pipeline(encode, trees)"] if texts else [],
    }
    return fill("training.py", values)


def _about_the_label(plan: Plan) -> list[str]:
    label = next(column for column in plan.columns if column.role is Role.LABEL)
    said = f"The label is the column {quoted(plan.label)} as it is; rows where it is missing are not trained on."
    if plan.task is Task.BINARY and label.source.kind is not Kind.BOOLEAN:
        low, high = label.source.distinct
        said += f" Predicted is the probability of {literal(high)} against {literal(low)}."
    return [*comment(said), "# THINK: is it final when it is read, or does it still change for a while?"]


def _card(plan: Plan) -> str:
    left_out = [f"| `{column.name}` | {column.why} |" for column in plan.of(Role.LEFT_OUT)]
    values = {
        "name": plan.name,
        "label": plan.label,
        "table": plan.table.name,
        "task": plan.task.value,
        "rows": plan.table.rows,
        "key": plan.key,
        "holdout": f"{plan.holdout:.0%}",
        "split": f"the newest by `{plan.event_time}`" if plan.event_time else f"chosen by a hash of `{plan.key}`",
        "changed_at": [f"- Rows changed at `{plan.changed_at}`."] if plan.changed_at else [],
        "codes": [f"- THINK: `{column.name}` holds {column.think}" for column in plan.of(Role.INPUT) if column.think],
        "inputs": ", ".join(f"`{column.name}`" for column in plan.of(Role.INPUT)),
        "left_out": ["## Left out", "", "| column | why |", "|---|---|", *left_out, ""] if left_out else [],
        "slices": ", ".join(f"`{column.name}`" for column in plan.of(Role.SLICE)) or "none yet",
        "notes": [f"- {note[0].upper()}{note[1:]}." for note in plan.notes],
    }
    return fill("README.md", values)
