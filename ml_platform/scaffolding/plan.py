"""The plan: what each column is for in the new model, guessed where there is one answer and asked for otherwise."""

import builtins
import difflib
import keyword
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np
import polars as pl

from ml_platform.modeling import columns as kinds
from ml_platform.modeling import leakage
from ml_platform.modeling.gate import MIN_ROWS
from ml_platform.modeling.ingestion import Kind
from ml_platform.modeling.schema import Field
from ml_platform.modeling.spec import QualityPolicy, Task
from ml_platform.modeling.validation import as_columns
from ml_platform.scaffolding.source_table import ScaffoldError, SourceColumn, SourceTable

CHANGED_AT = ("updated_at", "changed_at", "modified_at")
LABELS = ("label", "target")
BOOKKEEPING = frozenset({*CHANGED_AT, "created_at", "inserted_at", "deleted_at", "loaded_at"})
PROTECTED = frozenset({
    *("sex", "gender", "male", "female", "orientation", "pregnant", "pregnancy", "married", "marital"),
    *("race", "ethnicity", "ethnic", "black", "white", "asian", "hispanic", "hispan", "nationality", "citizenship"),
    *("religion", "disability", "disabled"),
})  # fmt: skip
UNKNOWN_WORDS = frozenset({"", ".", "?", "-", "na", "n/a", "nan", "null", "none", "unknown", "missing"})
RESERVED_LABELS = frozenset({
    *("estimator", "make_column_selector", "make_column_transformer", "make_pipeline", "Pipeline", "OneHotEncoder"),
    *("HistGradientBoostingClassifier", "HistGradientBoostingRegressor"),
})  # fmt: skip
"""A function in training.py with the label's name computes the label, so nothing else there may have that name."""
MOST_CATEGORIES = 50
MOST_CLASSES = 50
MOST_SLICES = 10
FEW_CLASS_ROWS = 10
ROWS_PER_CATEGORY = 5
MOST_MISSING = 0.95
STRENGTH_ROWS = 5_000
HOLDOUTS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


class Role(StrEnum):
    """What a column is for."""

    KEY = "key"
    LABEL = "label"
    EVENT_TIME = "event time"
    INPUT = "input"
    SLICE = "slice"
    LEFT_OUT = "left out"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What was asked for on the command line; None where it is to be guessed."""

    name: str
    table: str
    label: str | None = None
    key: str | None = None
    changed_at: str | None = None
    event_time: str | None = None
    task: Task | None = None
    owner: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedColumn:
    """A column and what it is for; `why` says why it is left out, `think` what a person should look at."""

    source: SourceColumn
    role: Role
    why: str = ""
    think: str = ""

    @property
    def name(self) -> str:
        """The column's name in the source."""
        return self.source.name

    @property
    def is_time(self) -> bool:
        """Whether it holds dates or times."""
        return self.source.kind in {Kind.DATE, Kind.TIME}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is decided about the new model before a file is written."""

    name: str
    owner: str | None
    table: SourceTable
    key: str
    changed_at: str | None
    event_time: str | None
    label: str
    task: Task
    columns: tuple[PlannedColumn, ...]
    strongest: tuple[tuple[str, float], ...]
    floor: float
    holdout: float
    min_rows: int
    new_rows: int
    max_source_age: timedelta | None
    notes: tuple[str, ...]

    def of(self, *roles: Role) -> list[PlannedColumn]:
        """The columns with one of these roles, in the table's order."""
        return [column for column in self.columns if column.role in roles]


def make_plan(table: SourceTable, wish: Wish, now: datetime) -> Plan:
    """Decide what every column is for, and the sizes and thresholds that follow from the table.

    Raises:
        ScaffoldError: when something has no single answer; the message names the option that gives it.
    """
    key = _key(table, wish)
    changed_at = _changed_at(table, wish)
    event_time = _time(table, wish.event_time, "--event-time").name if wish.event_time else None
    label = _label(table, wish, {key, changed_at, event_time})
    task = _task(label, wish.task)
    taken = {key: Role.KEY, label.name: Role.LABEL, **({event_time: Role.EVENT_TIME} if event_time else {})}
    columns = [_planned(column, taken, changed_at) for column in table.columns]
    strengths = _strengths(columns, label, task)
    columns = [_without_answers(column, strengths) for column in columns]
    if not any(column.role is Role.INPUT for column in columns):
        reasons = "; ".join(f"{c.name}: {c.why or c.role}" for c in columns)
        msg = f"table {table.name} has no column left to learn from ({reasons}): give a table or view with inputs"
        raise ScaffoldError(msg)
    labelled = round(table.rows * (1 - label.missing))
    holdout = _holdout(labelled)
    return Plan(
        name=wish.name,
        owner=wish.owner,
        table=table,
        key=key,
        changed_at=changed_at,
        event_time=event_time,
        label=label.name,
        task=task,
        columns=tuple(columns),
        strongest=tuple(sorted(_of_inputs(columns, strengths).items(), key=lambda pair: -pair[1])[:3]),
        floor=_floor(label, task),
        holdout=holdout,
        min_rows=_about(table.rows / 2),
        new_rows=max(_about(table.rows / 10), 1),
        max_source_age=_max_source_age(table, changed_at, now),
        notes=tuple(_notes(label, task, labelled * holdout)),
    )


def _key(table: SourceTable, wish: Wish) -> str:
    if wish.key is None:
        if table.key:
            return table.key
        msg = (
            f"table {table.name} has no primary key of one column: say with --key COLUMN what identifies a row; "
            f"it has {_listed(table)}"
        )
        raise ScaffoldError(msg)
    column = _column(table, wish.key, "--key")
    if column.missing or len(column.distinct) < len(column.values):
        msg = f"--key {column.name}: some rows share a value or have none; choose a column that identifies each row"
        raise ScaffoldError(msg)
    return column.name


def _changed_at(table: SourceTable, wish: Wish) -> str | None:
    if wish.changed_at:
        return _time(table, wish.changed_at, "--changed-at").name
    found = [c.name for c in table.columns if c.name.lower() in CHANGED_AT and c.kind is Kind.TIME]
    if len(found) > 1:
        msg = f"table {table.name} has {' and '.join(found)}: say with --changed-at COLUMN when a row last changed"
        raise ScaffoldError(msg)
    return found[0] if found else None


def _time(table: SourceTable, name: str, option: str) -> SourceColumn:
    column = _column(table, name, option)
    if column.kind is Kind.TIME or (column.kind is Kind.DATE and option == "--event-time"):
        return column
    times = [c.name for c in table.columns if c.kind is Kind.TIME]
    msg = f"{option} {name}: its type is {column.type}, not a timestamp; {table.name} has {_or_none(times)}"
    raise ScaffoldError(msg)


def _label(table: SourceTable, wish: Wish, others: set[str | None]) -> SourceColumn:
    named = [c.name for c in table.columns if c.name.lower() in LABELS]
    if wish.label is None and len(named) != 1:
        msg = f"say with --label COLUMN what is to be predicted; table {table.name} has {_listed(table)}"
        raise ScaffoldError(msg)
    column = _column(table, wish.label or named[0], "--label")
    fault = _label_fault(column)
    if column.name in others:
        fault = "it is the key or a time of the row already"
    if fault:
        msg = f"--label {column.name}: {fault}; choose another column, or a view that has one"
        raise ScaffoldError(msg)
    return column


def _label_fault(column: SourceColumn) -> str:
    """Why a column cannot be a label; empty when it can."""
    if not column.usable or column.kind in {Kind.DATE, Kind.TIME}:
        return f"its type is {column.type}, and a label is a number, a boolean or text"
    values = column.distinct
    if len(values) < 2:  # noqa: PLR2004 - one value cannot be told apart
        return f"every row holds {values[0]!r}, so there is nothing to tell apart" if values else "no row has a value"
    if column.kind is Kind.TEXT and len(values) > min(MOST_CLASSES, len(column.known) / 2):
        return f"it is text with {len(values)} different values, too many for classes"
    if column.name in RESERVED_LABELS or column.name.startswith("__"):
        return "training.py needs this name itself"
    return ""


def _task(label: SourceColumn, wanted: Task | None) -> Task:
    values = label.distinct
    task = wanted or _obvious_task(label, values)
    if task is None:
        msg = (
            f"--label {label.name} holds {len(values)} different whole numbers: say with --task multiclass that they "
            "are classes, or with --task regression that they are amounts"
        )
    elif task is Task.BINARY and len(values) != 2:  # noqa: PLR2004 - that is what binary means
        msg = f"--task binary: {label.name} holds {len(values)} different values, not 2; take multiclass or regression"
    elif task is Task.MULTICLASS and len(values) > MOST_CLASSES:
        msg = f"--task multiclass: {label.name} holds {len(values)} different values; take --task regression"
    elif task is Task.REGRESSION and label.kind not in {Kind.INTEGER, Kind.NUMBER}:
        msg = f"--task regression: {label.name} is {label.type}, not a number; take binary or multiclass"
    else:
        return task
    raise ScaffoldError(msg)


def _obvious_task(label: SourceColumn, values: list[object]) -> Task | None:
    if len(values) == 2:  # noqa: PLR2004 - two values are two classes
        return Task.BINARY
    if label.kind is Kind.TEXT:
        return Task.MULTICLASS
    fractions = label.kind is Kind.NUMBER and bool((label.known % 1 != 0).any())
    return Task.REGRESSION if fractions or len(values) > MOST_CLASSES else None


def _planned(column: SourceColumn, taken: dict[str, Role], changed_at: str | None) -> PlannedColumn:
    """What a column is for, as far as it shows by itself."""
    if column.name in taken:
        return PlannedColumn(source=column, role=taken[column.name])
    why = _why_left_out(column, changed_at)
    if why:
        return PlannedColumn(source=column, role=Role.LEFT_OUT, why=why)
    if PROTECTED & set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.name).lower())):
        if len(column.distinct) <= MOST_SLICES and column.kind not in {Kind.DATE, Kind.TIME}:
            return PlannedColumn(source=column, role=Role.SLICE)
        why = "it looks like a protected property, with too many values for slices"
        return PlannedColumn(source=column, role=Role.LEFT_OUT, why=why)
    return PlannedColumn(source=column, role=Role.INPUT, think=_codes(column))


def _why_left_out(column: SourceColumn, changed_at: str | None) -> str:
    """Why a column is no input; empty when it may be one."""
    different = len(column.distinct) if column.usable else 0
    if not column.usable:
        return f"its type {column.type} is not supported; a view can make numbers or text of it"
    if column.name == changed_at or column.name.lower() in BOOKKEEPING:
        return "it tells when the row was written, not what it is about"
    if column.missing > MOST_MISSING:
        return f"it is missing in {column.missing:.0%} of the rows"
    if different == 1:
        return f"every row holds {column.distinct[0]}"
    if re.search(r"(^|_)(id|uuid|key)$", column.name.lower()) or column.type == "uuid":
        return "it identifies something; what it identifies may have properties worth joining"
    if column.kind is Kind.TEXT and different > min(MOST_CATEGORIES, len(column.known) / ROWS_PER_CATEGORY):
        return f"it is free text: {different} different values"
    if column.kind in {Kind.DATE, Kind.TIME} and not is_parameter(column.name):
        return "a time needs a function with a parameter of its name, which Python does not allow; rename it in a view"
    return ""


def is_parameter(name: str) -> bool:
    """Whether a column can be a parameter of a feature function under its own name."""
    plain = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
    return plain and not keyword.iskeyword(name) and not hasattr(builtins, name) and name not in {"np", "pl"}


def _codes(column: SourceColumn) -> str:
    """What looks like a code for a missing value; empty when nothing does."""
    odd: Sequence[object] = []
    if column.kind is Kind.TEXT:
        odd = [v for v in column.distinct if str(v).strip().lower() in UNKNOWN_WORDS]
    elif column.kind in {Kind.INTEGER, Kind.NUMBER}:
        odd = _odd_numbers(column.known.unique().to_numpy().astype(float).tolist())
    if not odd:
        return ""
    rows = sum(value in odd for value in column.known)
    written = ", ".join(f"{v:.10g}" if isinstance(v, float) else repr(v) for v in odd)
    return f"{written} in {rows} rows: a code for missing?"


def _odd_numbers(values: list[float]) -> list[float]:
    """Values written like a code and far from all others: 666, 999, 999999.4, or -9 among positive ones."""
    looks = re.compile(r"-(1|9+|666|777|888)|9{3,}|666|777|888|1(0{6,})")
    coded = [v for v in values if math.isfinite(v) and looks.fullmatch(str(int(v)))]
    others = [v for v in values if v not in coded]
    if not others:
        return []
    return sorted(v for v in coded if (v > 2 * max(others) if v > 0 else min(others) >= 0))


def _strengths(columns: Iterable[PlannedColumn], label: SourceColumn, task: Task) -> dict[str, float]:
    """How well each input tells the label on its own, from 0 to 1; times are left to the features check."""
    inputs = [c.source for c in columns if c.role is Role.INPUT and not c.is_time]
    frame = pl.DataFrame([c.values for c in (*inputs, label)]).head(STRENGTH_ROWS)
    of = as_columns(frame, tuple(_field(c) for c in (*inputs, label)))
    target = of.pop(label.name)
    with np.errstate(all="ignore"):
        return leakage.strengths(of, target, task)


def _field(column: SourceColumn) -> Field:
    kind = kinds.Kind.TEXT if column.kind is Kind.TEXT else kinds.Kind.NUMBER
    return Field(name=column.name, kind=kind, dtype="", nullable=True)


def _without_answers(column: PlannedColumn, strengths: dict[str, float]) -> PlannedColumn:
    strength = strengths.get(column.name, 0.0)
    if column.role is not Role.INPUT or strength < leakage.ALMOST_CERTAIN:
        return column
    why = f"alone it tells the label almost for certain ({strength:.2f} of 1): it must be written down afterwards"
    return PlannedColumn(source=column.source, role=Role.LEFT_OUT, why=why)


def _of_inputs(columns: Iterable[PlannedColumn], strengths: dict[str, float]) -> dict[str, float]:
    return {c.name: strengths[c.name] for c in columns if c.role is Role.INPUT and c.name in strengths}


def _floor(label: SourceColumn, task: Task) -> float:
    """What a model must reach to be worth anything; for classes, a fifth of the way from the commonest to certainty."""
    if task is Task.MULTICLASS:
        commonest = float(label.known.value_counts()["count"].max()) / len(label.known)  # type: ignore[arg-type]
        return round(commonest + (1 - commonest) / 5, 2)
    return 0.6 if task is Task.BINARY else 0.1


def _holdout(rows: int) -> float:
    """The smallest share that leaves enough rows to judge, even when the hash of the keys deals few."""
    enough = (h for h in HOLDOUTS if rows * h - 3 * math.sqrt(rows * h * (1 - h)) >= MIN_ROWS)
    return next(enough, HOLDOUTS[-1])


def _about(number: float) -> int:
    """A number with one digit that counts, not above the given one."""
    digits = str(int(number))
    return int(digits[0].ljust(len(digits), "0"))


def _max_source_age(table: SourceTable, changed_at: str | None, now: datetime) -> timedelta | None:
    """A limit that today's newest row keeps; None when the usual one will do."""
    if changed_at is None:
        return None
    newest = _column(table, changed_at, "--changed-at").known.max()
    if not isinstance(newest, datetime) or now - newest < QualityPolicy().max_source_age / 2:
        return None
    return timedelta(days=max(_about(2 * (now - newest).days), 60))


def _notes(label: SourceColumn, task: Task, judged: float) -> Iterable[str]:
    """What may keep the model from going live, one sentence each."""
    if judged < MIN_ROWS:
        yield (
            f"about {judged:.0f} labelled rows are held out, and the evaluation wants {MIN_ROWS}: "
            "nothing goes live before there are more rows"
        )
    if task is not Task.REGRESSION:
        for value, rows in label.known.value_counts(sort=True).iter_rows():
            if rows < FEW_CLASS_ROWS:
                yield f"class {value!r} has only {rows} rows: too few to learn from; leave it out in a view"


def _column(table: SourceTable, name: str, option: str) -> SourceColumn:
    for column in table.columns:
        if column.name == name:
            return column
    near = difflib.get_close_matches(name, [c.name for c in table.columns], n=3)
    there = f"did you mean {' or '.join(near)}?" if near else f"it has {_listed(table)}"
    msg = f"{option} {name}: table {table.name} has no such column; {there}"
    raise ScaffoldError(msg)


def _listed(table: SourceTable) -> str:
    return ", ".join(column.name for column in table.columns)


def _or_none(names: list[str]) -> str:
    return ", ".join(names) or "none"
