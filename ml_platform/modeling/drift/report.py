"""The report: a window judged, and drawn by Evidently for people, in a process of its own, since Evidently is heavy."""

import html
import sys
from pathlib import Path

import msgspec
import polars as pl

from ml_platform.modeling.drift.judging import Verdict, judge
from ml_platform.modeling.drift.profile import EVENT_TIME, Profile

MAX_CATEGORIES = 12
REFERENCE, CURRENT = "reference", "current"
ORDER, VERDICT, REPORT = "order.json", "verdict.json", "report.html"
BANNER = '<div style="font:16px sans-serif;margin:1em 2em;padding:1em;border:2px solid {colour}">{text}</div>'
ASIDE = "This decides. Below is Evidently's view, with thresholds that know neither the window's size nor chance."


class Order(msgspec.Struct, frozen=True):
    """What is in the folder: for each part PART-reference.parquet and PART-current.parquet; the first is drawn.

    `rate` is the share of undrifted windows that may have an alarm.
    """

    parts: tuple[str, ...]
    rate: float


def write(folder: Path, parts: dict[str, tuple[pl.DataFrame, pl.DataFrame]], rate: float) -> None:
    """Leave what is to be judged in the folder: reference and window of every part."""
    for name, frames in parts.items():
        for role, frame in zip((REFERENCE, CURRENT), frames, strict=True):
            frame.write_parquet(folder / f"{name}-{role}.parquet")
    (folder / ORDER).write_bytes(msgspec.json.encode(Order(tuple(parts), rate)))


def read(folder: Path) -> Verdict:
    """What was judged in the folder."""
    return msgspec.json.decode((folder / VERDICT).read_bytes(), type=Verdict)


def draw(reference: pl.DataFrame, current: pl.DataFrame, verdict: Verdict, file: Path) -> None:
    """Write Evidently's report with the verdict on top.

    Args:
        reference: training rows.
        current: served rows; columns of the reference that they do not have are left out.
        verdict: what was decided.
        file: where the HTML goes.
    """
    from evidently import DataDefinition, Dataset, Report  # noqa: PLC0415 - 7 s
    from evidently.presets import DataDriftPreset  # noqa: PLC0415

    there = [name for name in reference.columns if name in current.columns]
    typed = current.select(pl.col(name).cast(reference[name].dtype, strict=False) for name in there)
    names = [n for n in there if reference[n].count() and typed[n].count()]
    categories = [n for n in names if not reference[n].dtype.is_numeric() or reference[n].n_unique() <= MAX_CATEGORIES]
    definition = DataDefinition(
        numerical_columns=[n for n in names if n not in categories], categorical_columns=categories
    )
    datasets = [
        Dataset.from_pandas(
            frame[names].to_pandas().astype(dict.fromkeys(categories, "str")), data_definition=definition
        )
        for frame in (typed, reference)
    ]
    if names:
        Report([DataDriftPreset(columns=names)]).run(*datasets).save_html(str(file))
    drawn = file.read_text(encoding="utf-8") if names else "<body>"
    file.write_text(drawn.replace("<body>", f"<body>{banner(verdict)}", 1), encoding="utf-8")


def banner(verdict: Verdict) -> str:
    """The verdict as HTML."""
    lines = [
        f"<b>{verdict.state}</b>: at most {verdict.basis.false_alarm_rate:.2%} of undrifted windows have an alarm."
    ]
    lines += [html.escape(alarm.reason) for alarm in verdict.alarms] or [html.escape(verdict.reason)]
    lines += [html.escape(verdict.basis.caveat)] if verdict.basis.caveat else []
    return BANNER.format(colour="#c33" if verdict.alarms else "#3a3", text="<br>".join([*lines, f"<i>{ASIDE}</i>"]))


def main() -> None:
    """Judge what is in the folder given, and leave verdict and report beside it."""
    folder = Path(sys.argv[1])
    order = msgspec.json.decode((folder / ORDER).read_bytes(), type=Order)
    references, windows = (
        [pl.read_parquet(folder / f"{name}-{role}.parquet") for name in order.parts] for role in (REFERENCE, CURRENT)
    )
    profiles = [Profile.of(rows, EVENT_TIME if EVENT_TIME in rows.columns else None) for rows in references]
    verdict = judge(profiles, windows, order.rate)
    (folder / VERDICT).write_bytes(msgspec.json.encode(verdict))
    draw(references[0].drop(EVENT_TIME, strict=False), windows[0], verdict, folder / REPORT)


if __name__ == "__main__":
    main()
