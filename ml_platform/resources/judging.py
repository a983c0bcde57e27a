"""Judging: brings challenger and champion before the gate, each as it is or would be served, on the same rows."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from ml_platform.modeling import bundle, splitting
from ml_platform.modeling.bundle import Predictor
from ml_platform.modeling.gate import Champion, Decision, decide
from ml_platform.modeling.guardrails import Contender, Holdout
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.schema import Logged
from ml_platform.modeling.spec import Task
from ml_platform.modeling.splitting import Split
from ml_platform.modeling.training import ModelCode, as_classes, known
from ml_platform.modeling.validation import as_columns
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.products import TrainedModel
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, SPLIT, ExperimentTracking, Version
from ml_platform.resources.unavailable import UnavailableError

TIMED_ROWS = 100
MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The decision, the rows it rests on, and what each contender said about them."""

    decision: Decision
    holdout: Holdout
    predicted: Mapping[str, Predictions]


class _IncomparableError(ValueError):
    """A champion that cannot be compared with; the message says why."""


def judge(
    code: ModelCode,
    trained: TrainedModel,
    champion: Version | None,
    *,
    datasets: DatasetStore,
    bundles: Path,
    tracking: ExperimentTracking,
    now: datetime,
) -> Judged:
    """Let the gate decide on a trained model. A champion that is lost, broken or of another shape is no error.

    Raises:
        UnavailableError: when MLflow cannot be reached.
    """
    challenger = _load(tracking, trained.run_id, bundles, trained.digest)
    rows = datasets.read(trained.validated.name, trained.validated.version)
    rows = rows.filter(splitting.held_out(rows, [trained.split]) & known(code.label(rows)))
    contenders, incomparable = {CHALLENGER: challenger}, ""
    predicted, shared = {CHALLENGER: _predict(challenger, rows)}, np.ones(len(rows), dtype=bool)
    if champion:
        try:
            contenders[CHAMPION] = _comparable(champion, trained, challenger, tracking, bundles)
            predicted[CHAMPION], shared = _answered(champion, contenders[CHAMPION], rows)
        except _IncomparableError as error:
            contenders.pop(CHAMPION, None)
            incomparable = str(error)
    rows, predicted = rows.filter(shared), {who: found.at(shared) for who, found in predicted.items()}
    holdout = _holdout(code, rows)
    measured = _measured(contenders, predicted)
    against = None
    if champion:
        age, contender = now - champion.registered_at, measured.get(CHAMPION)
        against = Champion(version=champion.version, age=age, contender=contender, incomparable=incomparable)
    otherwise = _log_differently(contenders.values())
    decision = decide(code.spec, holdout, measured[CHALLENGER], against, logs_otherwise=otherwise)
    return Judged(decision=decision, holdout=holdout, predicted=predicted)


def _load(tracking: ExperimentTracking, run_id: str, bundles: Path, digest: str) -> Predictor:
    return bundle.load(tracking.fetch_bundle(run_id, bundles, digest), digest)


def _predict(model: Predictor, rows: pl.DataFrame) -> Predictions:
    return model.predict(as_columns(rows, model.fields))


def _comparable(
    champion: Version, trained: TrainedModel, challenger: Predictor, tracking: ExperimentTracking, bundles: Path
) -> Predictor:
    """The champion in memory, if it predicts the same thing, and not from what came after the challenger's rows.

    Raises:
        _IncomparableError: otherwise.
    """
    if trained.as_of:
        msg = f"it was trained on what came after {trained.as_of:%Y-%m-%d}"
        raise _IncomparableError(msg)
    with _or_incomparable():
        found = _load(tracking, champion.run_id, bundles, champion.digest)
    ours, theirs = (model.manifest for model in (challenger, found))
    if ours.task is not theirs.task or (ours.task is Task.BINARY and ours.classes != theirs.classes):
        msg = f"it predicts {theirs.task} {theirs.classes}, and the challenger {ours.task} {ours.classes}"
        raise _IncomparableError(msg)
    return found


def _answered(champion: Version, model: Predictor, rows: pl.DataFrame) -> tuple[Predictions, NDArray[np.bool_]]:
    """The champion's predictions of rows of today, and which of them it was not trained on.

    Raises:
        _IncomparableError: when it cannot answer them.
    """
    with _or_incomparable():
        split = msgspec.json.decode(champion.tags[SPLIT], type=Split)
        return _predict(model, rows), splitting.held_out(rows, [split])


@contextmanager
def _or_incomparable() -> Iterator[None]:
    """Whatever fails makes the champion incomparable: its features are code of another time, on rows of today."""
    try:
        yield
    except UnavailableError:
        raise
    except Exception as error:
        msg = f"{type(error).__name__}: {error}"
        raise _IncomparableError(msg) from error


def _holdout(code: ModelCode, rows: pl.DataFrame) -> Holdout:
    label = code.label(rows)
    return Holdout(
        actual=label if code.spec.task is Task.REGRESSION else as_classes(label),
        slices=as_columns(rows, tuple(f for f in code.fields if f.name in code.spec.slices)),
    )


def _measured(contenders: Mapping[str, Predictor], predicted: Mapping[str, Predictions]) -> dict[str, Contender]:
    """What each said, and what it costs. They are asked in turns, so that a busy moment slows them all."""
    taken: dict[str, list[float]] = {who: [] for who in contenders}
    for i in range(TIMED_ROWS):
        for who, model in contenders.items():
            row = model.golden.rows[i % len(model.golden.rows)]
            began = time.perf_counter()
            model.answer([row])
            taken[who].append(time.perf_counter() - began)
    return {
        who: Contender(
            predicted=predicted[who], row_ms=float(np.median(taken[who])) * 1000, bundle_mib=model.size / MIB
        )
        for who, model in contenders.items()
    }


def _log_differently(contenders: Iterable[Predictor]) -> bool:
    """Whether one of them keeps more out of the prediction log than another."""
    kept_out = [frozenset((f.name, f.logged) for f in c.fields if f.logged is not Logged.PLAIN) for c in contenders]
    return len(set(kept_out)) > 1
