"""Answers: a model's predictions for many rows as the columns of a table, and what is wrong with the other rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from ml_platform.modeling.bundle import Predictor
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.row_rules import faults
from ml_platform.modeling.spec import Task
from ml_platform.modeling.validation import as_columns


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came of some rows: `scored` has the key and the answer, `rejected` the key and every rule that was broken.

    `last` is the greatest key, as text; `rows_rejected` counts rows, not rules.
    """

    scored: pl.DataFrame
    rejected: pl.DataFrame
    rows_rejected: int
    last: str


def column_types(task: Task, classes: tuple[Any, ...]) -> dict[str, str]:
    """The columns that hold an answer, with their PostgreSQL types.

    A binary model gives the label and the probability of the positive class, as the endpoint does. A multiclass model
    gives the likeliest label, its probability, and those of all classes as one value, since classes come and go.
    """
    if task is Task.REGRESSION:
        return {"value": "double precision"}
    said = {"label": _type_of(classes), "probability": "double precision"}
    return said if task is Task.BINARY else said | {"probabilities": "jsonb"}


def _type_of(classes: tuple[Any, ...]) -> str:
    types = {bool: "boolean", int: "bigint", float: "double precision"}
    (found, *others) = {type(label) for label in classes}
    return "text" if others else types.get(found, "text")


def answer(predictor: Predictor, rows: pl.DataFrame, key: str) -> Answers:
    """Answers for the rows that keep the model's own schema.

    Args:
        predictor: the model.
        rows: at least one row, by ascending key, with the key and the model's inputs in types that fit.
        key: the column that identifies a row.
    """
    columns, keys = as_columns(rows, predictor.fields), rows[key]
    found = faults(rows, columns, predictor.fields)
    is_bad = np.zeros(len(rows), dtype=bool)
    is_bad[found["row"].to_numpy()] = True
    rejected = found.select(keys.gather(found["row"]).alias(key), "field", "rule", "value")
    if is_bad.any():
        columns, keys = {n: v[~is_bad] for n, v in columns.items()}, keys.filter(pl.Series(~is_bad))
    # An engine need not know what to do with no rows at all.
    scored = as_table(predictor.predict(columns)).insert_column(0, keys) if len(keys) else keys.to_frame()
    return Answers(
        scored=scored,
        rejected=rejected,
        rows_rejected=int(is_bad.sum()),
        last=str(rows[key][-1]),
    )


def as_table(predictions: Predictions) -> pl.DataFrame:
    """Predictions in the columns of `column_types`."""
    scores = predictions.scores
    if predictions.task is Task.REGRESSION:
        return pl.DataFrame({"value": scores})
    label = pl.Series("label", predictions.labels())
    if predictions.task is Task.BINARY:
        return pl.DataFrame([label, pl.Series("probability", scores)])
    by_class = pl.DataFrame(scores, schema=[str(c) for c in predictions.classes])
    probabilities = by_class.select(pl.struct(pl.all()).struct.json_encode().alias("probabilities"))
    return pl.DataFrame([label, pl.Series("probability", scores.max(axis=1)), probabilities["probabilities"]])


def as_logged(outputs: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Answers as the prediction log has them in the same columns, but `probabilities`."""
    rows = [
        {"label": output["label"], "probability": max(output["probabilities"].values())}
        if "probabilities" in output
        else output
        for output in outputs
    ]
    return pl.from_dicts(rows, infer_schema_length=None)
