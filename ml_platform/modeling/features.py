"""Features: functions of columns, the same objects in training and in serving."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_platform.modeling.columns import DTYPES, Column, Kind, Numbers, Texts, as_single_precision

__all__ = ["Feature", "FeatureError", "FeatureSet", "Numbers", "Texts"]


class FeatureError(ValueError):
    """A feature that cannot work; the message names the module, the function and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One input of the estimator: a column as it is, or a function of columns and earlier features."""

    name: str
    kind: Kind
    needs: tuple[str, ...]
    function: Callable[..., Column] | None = None
    description: str = ""


@dataclass(frozen=True)
class FeatureMatrix:
    """The features of n rows as an engine takes them, both in the order of the features.

    `numbers` (n, k) holds the numeric features in single precision, missing is NaN. `texts` (n, t) holds the text
    features, missing is None.
    """

    numbers: NDArray[np.float32]
    texts: Texts


@dataclass(frozen=True)
class FeatureSet:
    """The features of a model in their order, and the source columns they are made of."""

    features: tuple[Feature, ...]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, module: ModuleType, kinds: Mapping[str, Kind]) -> "FeatureSet":
        """The features a module defines.

        Args:
            module: has `COLUMNS`, the names of columns used as they are, and functions from columns to a column.
            kinds: what each column of the schema holds.

        Raises:
            FeatureError: when a column or an annotation is missing.
        """
        features = [_plain(module.__name__, name, kinds) for name in getattr(module, "COLUMNS", ())]
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
                known = {f.name for f in features}
                features.append(_derived(module.__name__, function, kinds, known))
        if not features:
            msg = f"{module.__name__}: no features; name columns in COLUMNS or write a function of columns"
            raise FeatureError(msg)
        made = {f.name for f in features if f.function}
        needed = dict.fromkeys(n for f in features for n in f.needs if n not in made)
        return cls(tuple(features), tuple(needed))

    @classmethod
    def from_source(cls, source: str, kinds: Mapping[str, Kind]) -> "FeatureSet":
        """The features of a module given as text: the training-time source that travels in the bundle."""
        module = ModuleType("bundled_features")
        exec(compile(source, "<features of the bundle>", "exec"), module.__dict__)  # noqa: S102 - our own bundle, checked by its hash
        return cls.of(module, kinds)

    @property
    def kinds(self) -> dict[str, Kind]:
        """What each feature holds, in order."""
        return {f.name: f.kind for f in self.features}

    def compute(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """The features of some rows.

        Args:
            columns: the source columns, arrays of n rows with the dtype of their kind.

        Returns:
            One array of n rows per feature; numbers are rounded to single precision.

        Raises:
            FeatureError: when a function returns anything but n rows of its kind.
        """
        with np.errstate(all="ignore"):
            made = self._made(columns)
        return {
            f.name: as_single_precision(made[f.name]) if f.kind is Kind.NUMBER else made[f.name]  # type: ignore[arg-type]
            for f in self.features
        }

    def matrix(self, columns: Mapping[str, Column]) -> FeatureMatrix:
        """The same features as `compute` gives, in the form that engines take.

        Raises:
            FeatureError: when a function returns anything but n rows of its kind.
        """
        rows = _rows(columns)
        with np.errstate(all="ignore"):
            made = self._made(columns)
            numbers = _side_by_side([made[name] for name in self._numbers], np.dtype(np.float32), rows)
        return FeatureMatrix(numbers, _side_by_side([made[name] for name in self._texts], np.dtype(object), rows))

    @cached_property
    def _numbers(self) -> list[str]:
        return [feature.name for feature in self.features if feature.kind is Kind.NUMBER]

    @cached_property
    def _texts(self) -> list[str]:
        return [feature.name for feature in self.features if feature.kind is Kind.TEXT]

    @cached_property
    def _functions(self) -> list[tuple[Feature, Callable[..., Column], np.dtype[np.generic]]]:
        """The features that are computed, with their functions and types."""
        return [(f, f.function, DTYPES[f.kind]) for f in self.features if f.function is not None]

    def _made(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """The features, before they are rounded, and the source columns."""
        rows = _rows(columns)
        known = dict(columns)
        for feature, function, dtype in self._functions:
            values = function(*[known[name] for name in feature.needs])
            known[feature.name] = values if _is_column(values, dtype, rows) else _as_column(feature, values, rows)
        return known


def _rows(columns: Mapping[str, Column]) -> int:
    return len(next(iter(columns.values()))) if columns else 0


def as_matrix(features: Mapping[str, Column], kinds: Mapping[str, Kind]) -> FeatureMatrix:
    """Feature columns of n rows each as an engine takes them."""
    rows = _rows(features)
    numbers = [features[name] for name, kind in kinds.items() if kind is Kind.NUMBER]
    texts = [features[name] for name, kind in kinds.items() if kind is Kind.TEXT]
    return FeatureMatrix(
        _side_by_side(numbers, np.dtype(np.float32), rows), _side_by_side(texts, np.dtype(object), rows)
    )


def _side_by_side(columns: Sequence[Column], dtype: np.dtype[Any], rows: int) -> NDArray[Any]:
    """Columns of n rows each as one array (n, k); at one row, what counts is how few calls of NumPy that takes."""
    if not columns:
        return np.empty((rows, 0), dtype=dtype)
    one_by_one = np.concatenate(columns, dtype=dtype, casting="unsafe")
    return np.ascontiguousarray(one_by_one.reshape(len(columns), rows).T)


def _plain(module: str, name: str, kinds: Mapping[str, Kind]) -> Feature:
    if name not in kinds:
        msg = f"{module}: COLUMNS names {name!r}, which is not in the schema; add it to schema.py"
        raise FeatureError(msg)
    if kinds[name] is Kind.TIME:
        msg = f"{module}: {name!r} is a time; write a function that makes a number of it"
        raise FeatureError(msg)
    return Feature(name=name, kind=kinds[name], needs=(name,))


def _derived(module: str, function: Callable[..., Column], kinds: Mapping[str, Kind], known: set[str]) -> Feature:
    name = function.__name__
    needs = tuple(inspect.signature(function).parameters)
    for need in needs:
        if need not in kinds and need not in known:
            msg = f"{module}.{name}: no column or earlier feature is called {need!r}; add it to schema.py"
            raise FeatureError(msg)
    returns = function.__annotations__.get("return")
    kind = {str(Numbers): Kind.NUMBER, str(Texts): Kind.TEXT}.get(str(returns))
    if kind is None:
        msg = f"{module}.{name}: annotate what it returns, Numbers or Texts"
        raise FeatureError(msg)
    if name in kinds:
        msg = f"{module}.{name}: a column has this name already; choose another for the feature"
        raise FeatureError(msg)
    return Feature(name=name, kind=kind, needs=needs, function=function, description=inspect.getdoc(function) or "")


def _is_column(values: Any, dtype: np.dtype[np.generic], rows: int) -> bool:
    return type(values) is np.ndarray and values.shape == (rows,) and values.dtype == dtype


def _as_column(feature: Feature, values: Any, rows: int) -> Column:
    """What a function returned that is not a column of the kind yet."""
    if np.shape(values) != (rows,):
        msg = f"feature {feature.name!r} must return an array of {rows} rows, got {np.shape(values)}"
        raise FeatureError(msg)
    column: Column = np.asarray(values).astype(DTYPES[feature.kind])
    return column
