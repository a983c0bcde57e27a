"""Pictures of a model: what people would rather look at than read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn import calibration, inspection, metrics

from ml_platform.modeling.bootstrap import Interval
from ml_platform.modeling.columns import Column, Kind
from ml_platform.modeling.drawing import BLUE, GREY, empty
from ml_platform.modeling.engine import as_frame
from ml_platform.modeling.features import FeatureMatrix
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task

IMPORTANCE_ROWS = 500
MOST_LABELS = 20


def of_predictions(actual: Column, predicted: Predictions) -> dict[str, Figure]:
    """The pictures of a model's answers on held-out rows, by file name."""
    if predicted.task is Task.REGRESSION:
        return {"residuals": _residuals(actual.astype(float), predicted.scores)}
    drawn = {"confusion": _confusion(actual, predicted)}
    if predicted.task is Task.BINARY:
        positive = actual == predicted.classes[1]
        if 0 < positive.sum() < len(positive):
            drawn["roc_pr"] = _roc_pr(positive, predicted.scores)
            drawn["calibration"] = _calibration(positive, predicted.scores)
    return drawn


def importances(
    pipeline: object, features: FeatureMatrix, kinds: Mapping[str, Kind], actual: Column, task: Task, seed: int
) -> dict[str, float]:
    """How much the score falls when one feature is shuffled, most important first, on at most 500 rows."""
    rows = np.random.default_rng(seed).permutation(len(actual))[:IMPORTANCE_ROWS]
    frame = as_frame(FeatureMatrix(features.numbers[rows], features.texts[rows]), tuple(kinds.items()))
    scoring = {Task.BINARY: "roc_auc", Task.MULTICLASS: "accuracy", Task.REGRESSION: "r2"}[task]
    if task is Task.BINARY and len(np.unique(actual[rows])) < 2:  # noqa: PLR2004 - AUC needs both classes
        scoring = "accuracy"
    found = inspection.permutation_importance(
        pipeline, frame, actual[rows], scoring=scoring, n_repeats=3, random_state=seed
    )
    pairs = zip(kinds, found["importances_mean"].tolist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def of_importances(values: Mapping[str, float], most: int = 15) -> Figure:
    """A bar for each of the most important features."""
    figure, axes = empty(height=0.28 * min(len(values), most) + 1.0)
    names = list(values)[:most][::-1]
    axes.barh(names, [values[n] for n in names], color=BLUE)
    axes.set_xlabel("score lost when the feature is shuffled")
    return figure


def of_performance(ends: Sequence[datetime], found: Sequence[Sequence[float]], promise: float) -> Figure:
    """A metric over time, each (value, low, high), beside what was promised."""
    figure, axes = empty(width=7.0)
    values, low, high = np.asarray(found).T
    axes.errorbar(list(ends), values, yerr=[values - low, high - values], color=BLUE, marker="o", capsize=3)
    axes.axhline(promise, color=GREY, linestyle=":", label="promised")
    axes.set(title="Realised performance", ylabel="metric")
    axes.tick_params(axis="x", rotation=30)
    axes.legend()
    return figure


def of_answers(values: Sequence[Any]) -> Figure:
    """How often each answer was given: a histogram of numbers, a bar for each of the most frequent labels."""
    figure, axes = empty()
    if all(isinstance(value, float) for value in values):
        axes.hist(np.asarray(values), bins=40, color=BLUE)
        axes.set(title="Answers", ylabel="rows")
        return figure
    labels = Counter(map(str, values)).most_common(MOST_LABELS)
    axes.barh([label for label, _ in labels][::-1], [count for _, count in labels][::-1], color=BLUE)
    axes.set(title="Answers", xlabel="rows")
    return figure


def of_gain(gain: Interval, marks: Mapping[str, float]) -> Figure:
    """An interval of a gain against what it is measured by; right is better."""
    figure, axes = empty(height=1.6)
    axes.plot([gain.low, gain.high], [0, 0], color=BLUE, linewidth=3)
    axes.plot([gain.estimate], [0], marker="o", color=BLUE)
    axes.axvline(0, color=GREY)
    for name, at in marks.items():
        axes.axvline(at, color=GREY, linestyle=":")
        axes.annotate(name, (at, 0.9), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set(yticks=[], ylim=(-1, 1), xlabel="challenger better by")
    return figure


def _roc_pr(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Figure:
    figure, (left, right) = empty(width=8.0, columns=2)
    false, true, _ = metrics.roc_curve(positive, scores)
    left.plot(false, true, color=BLUE)
    left.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    left.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
    precision, recall, _ = metrics.precision_recall_curve(positive, scores)
    right.plot(recall, precision, color=BLUE)
    right.axhline(positive.mean(), color=GREY, linestyle=":")
    right.set(title="Precision and recall", xlabel="recall", ylabel="precision")
    return figure


def _calibration(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Figure:
    figure, axes = empty()
    observed, said = calibration.calibration_curve(positive, scores, n_bins=10, strategy="quantile")
    axes.plot(said, observed, marker="o", color=BLUE)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    axes.set(title="Calibration", xlabel="probability said", ylabel="share observed")
    return figure


def _confusion(actual: Column, predicted: Predictions) -> Figure:
    figure, axes = empty()
    metrics.ConfusionMatrixDisplay.from_predictions(
        actual, predicted.labels(), labels=list(predicted.classes), ax=axes, cmap="Blues", colorbar=False
    )
    axes.set_title("Confusion")
    return figure


def _residuals(actual: NDArray[np.float64], said: NDArray[np.float64]) -> Figure:
    figure, (left, right) = empty(width=8.0, columns=2)
    left.scatter(said, actual - said, s=8, alpha=0.5, color=BLUE)
    left.axhline(0, color=GREY, linestyle=":")
    left.set(title="Residuals", xlabel="predicted", ylabel="actual - predicted")
    right.hist(actual - said, bins=30, color=BLUE)
    right.set(title="Distribution of residuals")
    return figure
