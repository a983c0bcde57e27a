"""Leakage: features that know the answer, or that nobody may use."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from ml_platform.modeling.columns import DTYPES, Column, Kind
from ml_platform.modeling.spec import Task
from ml_platform.modeling.training import known

ALMOST_CERTAIN = 0.98


def strengths(features: Mapping[str, Column], label: Column, task: Task) -> dict[str, float]:
    """How well each feature tells the label on its own: 0 not at all, 1 perfectly; over rows with a known label."""
    rows = known(label)
    return {name: _strength(values[rows], label[rows], task) for name, values in features.items()}


def null_shares(features: Mapping[str, Column]) -> dict[str, float]:
    """Share of missing values per feature."""
    return {name: float(1 - known(values).mean()) if len(values) else 0.0 for name, values in features.items()}


def _strength(values: Column, label: Column, task: Task) -> float:
    numbers = _as_numbers(values)
    present = ~np.isnan(numbers)
    numbers, label = numbers[present], label[present]
    if len(set(numbers.tolist())) < 2 or len(set(label.tolist())) < 2:  # noqa: PLR2004 - a constant tells nothing
        return 0.0
    if task is Task.REGRESSION:
        return float(abs(np.corrcoef(numbers, label.astype(float))[0, 1]))
    if task is Task.MULTICLASS:
        return _told_apart(numbers, label)
    return abs(2 * float(roc_auc_score(label == max(label.tolist()), numbers)) - 1)


def _told_apart(numbers: NDArray[np.float64], label: Column) -> float:
    """How far a small tree on this one feature gets from the commonest class to no error at all."""
    _, counts = np.unique(label.astype(str), return_counts=True)
    commonest = counts.max() / counts.sum()
    tree = DecisionTreeClassifier(max_leaf_nodes=2 * len(counts), random_state=0)
    column = numbers.reshape(-1, 1)
    reached = tree.fit(column, label.astype(str)).score(column, label.astype(str))
    return float((reached - commonest) / (1 - commonest))


def _as_numbers(values: Column) -> NDArray[np.float64]:
    if values.dtype != DTYPES[Kind.TEXT]:
        return np.asarray(values, dtype=np.float64)
    texts = sorted({v for v in values.tolist() if v is not None})
    ranks = {text: float(i) for i, text in enumerate(texts)}
    return np.array([ranks.get(v, np.nan) for v in values.tolist()])
