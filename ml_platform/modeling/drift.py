"""Drift: served requests against the training reference, drawn by Evidently in a process of its own."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

MAX_CATEGORIES = 12
REFERENCE, CURRENT, RESULT, REPORT = "reference.parquet", "current.parquet", "drift.json", "report.html"


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One column: how far it moved, by which measure, and whether that is over Evidently's threshold."""

    column: str
    measure: str
    value: float
    threshold: float
    drifted: bool


class DriftResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a comparison came to; the dataset drifted when half of the columns did."""

    drifted: bool
    share: float
    columns: tuple[ColumnDrift, ...]


def compare(reference: pd.DataFrame, current: pd.DataFrame, report_file: Path) -> DriftResult:
    """Compare requests with the training reference and write Evidently's report.

    Args:
        reference: training rows, the same columns as `current`.
        current: served rows.
        report_file: where the HTML goes.
    """
    from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415 - 7 s
    from evidently.presets import DataDriftPreset  # noqa: PLC0415

    names = [n for n in reference.columns if reference[n].notna().any() and current[n].notna().any()]
    categories = [n for n in names if _is_category(reference[n])]
    definition = DataDefinition(
        numerical_columns=[n for n in names if n not in categories], categorical_columns=categories
    )
    datasets = [
        Dataset.from_pandas(_typed(frame[names], categories), data_definition=definition)
        for frame in (current, reference)
    ]
    snapshot = Report([DataDriftPreset(columns=names)]).run(*datasets)
    snapshot.save_html(str(report_file))
    return _read(snapshot.dict())


def _read(found: dict[str, Any]) -> DriftResult:
    """The numbers of Evidently's own decision, per column."""
    columns, share = [], 0.0
    for metric in found["metrics"]:
        config = metric["config"]
        if config["type"].endswith(":ValueDrift"):
            value, threshold, method = float(metric["value"]), float(config["threshold"]), str(config["method"])
            drifted = value < threshold if "p_value" in method else value >= threshold
            columns.append(
                ColumnDrift(column=config["column"], measure=method, value=value, threshold=threshold, drifted=drifted)
            )
        elif config["type"].endswith(":DriftedColumnsCount"):
            share = float(metric["value"]["share"])
    return DriftResult(drifted=share >= 0.5, share=share, columns=tuple(columns))  # noqa: PLR2004 - Evidently's default


def _is_category(values: pd.Series) -> bool:
    return values.dtype == object or values.nunique() <= MAX_CATEGORIES


def _typed(frame: pd.DataFrame, categories: list[str]) -> pd.DataFrame:
    return frame.astype(dict.fromkeys(categories, "str"))


def main() -> None:
    """Compare the two files in the folder given, and leave result and report beside them."""
    folder = Path(sys.argv[1])
    result = compare(pd.read_parquet(folder / REFERENCE), pd.read_parquet(folder / CURRENT), folder / REPORT)
    (folder / RESULT).write_bytes(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
