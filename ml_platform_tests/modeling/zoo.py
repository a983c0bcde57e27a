"""A zoo of pipelines as people write them, with the engine that each is expected to be served by."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import (
    ColumnTransformer,
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)
from sklearn.svm import SVC, SVR, LinearSVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from ml_platform.modeling.columns import Kind
from ml_platform.modeling.engine import EngineKind, as_frame
from ml_platform.modeling.features import FeatureMatrix
from ml_platform.modeling.spec import Task

SEEN_ROWS = 1_000
CITIES = np.array(["Rome", "Oslo", "Łódź", "", "New York", "1", None], dtype=object)
JOBS = np.array(["clerk", "nurse", "cook"], dtype=object)
UNKNOWN = np.array(["Atlantis", "clerk ", "none", None], dtype=object)
MIXED = {
    "age": Kind.NUMBER,
    "city": Kind.TEXT,
    "income": Kind.NUMBER,
    "debt": Kind.NUMBER,
    "owner": Kind.NUMBER,
    "job": Kind.TEXT,
    "grade": Kind.NUMBER,
}
TAKEN = ("label", "variable", "probabilities", "numbers", "texts", "all", "model")
"""Names that converters like to give to things of their own."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """An estimator, the table it is fitted on, and the engine it is expected to be served by."""

    estimator: Any
    task: Task
    engine: EngineKind
    only: tuple[str, ...] = tuple(MIXED)
    names: tuple[str, ...] = tuple(MIXED)
    labels: tuple[str, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    far: float = 0.0
    answers_unknown: bool = True

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """Its features in their order."""
        return {new: MIXED[old] for old, new in zip(MIXED, self.names, strict=True) if old in self.only}

    def features(self, rows: int, seed: int, *, later: bool = False) -> FeatureMatrix:
        """Random rows of its table; later ones also have texts nobody has seen, and gaps where none were."""
        whole = _rows(rows, np.random.default_rng(seed), later=later)
        number, text = (
            [name in self.only for name, kind in MIXED.items() if kind is k] for k in (Kind.NUMBER, Kind.TEXT)
        )
        return FeatureMatrix((whole.numbers + np.float32(self.far))[:, number], whole.texts[:, text])

    def fitted(self) -> tuple[Any, FeatureMatrix]:
        """The estimator fitted, and the features it was fitted on."""
        seen = self.features(SEEN_ROWS, 1)
        estimator = clone(self.estimator)
        return estimator.fit(as_frame(seen, tuple(self.kinds.items())), self._target()), seen

    def _target(self) -> NDArray[Any]:
        """What is to be predicted; every feature has a part in it."""
        rows = _rows(SEEN_ROWS, np.random.default_rng(1), later=False)
        age, income, debt, owner, grade = np.nan_to_num(rows.numbers.astype(float)).T
        city, job = rows.texts.T
        noise = np.random.default_rng(2).normal(0, 0.5, SEEN_ROWS)
        value = (age - 50) / 20 + np.log(income) - 10 + debt / 5000 + owner + noise
        value += 2 * (grade > 0.5) * (city == "Rome") + (job == "cook")
        if self.task is Task.REGRESSION:
            values: NDArray[np.float64] = self.offset + self.scale * value
            return values
        classes = (value > 1).astype(int) if self.task is Task.BINARY else np.digitize(value, [0, 2])
        labels: NDArray[Any] = np.array(self.labels or (0, 1, 2), dtype=object if self.labels else int)
        return np.asarray(labels[classes])


def _rows(count: int, rng: np.random.Generator, *, later: bool) -> FeatureMatrix:
    numbers = np.column_stack(
        [
            rng.integers(18, 90, count),
            rng.lognormal(10, 1, count),
            np.where(rng.random(count) < 0.2, np.nan, rng.normal(0, 5000, count)),
            np.where(rng.random(count) < 0.1, np.nan, rng.random(count) < 0.4),
            rng.random(count).round(2),
        ]
    )
    texts = np.column_stack([rng.choice(CITIES, count), rng.choice(JOBS, count)])
    if later:
        numbers[rng.random(numbers.shape) < 0.02] = np.nan
        unknown = rng.random(texts.shape) < 0.1
        texts[unknown] = rng.choice(UNKNOWN, int(unknown.sum()))
    return FeatureMatrix(numbers.astype(np.float32), texts)


NUMERIC, TEXTUAL = make_column_selector(dtype_exclude=object), make_column_selector(dtype_include=object)
one_hot = partial(OneHotEncoder, handle_unknown="ignore", sparse_output=False)
ordinal = partial(OrdinalEncoder, handle_unknown="use_encoded_value", unknown_value=-1)
median = partial(SimpleImputer, strategy="median")
scale = StandardScaler
quantiles = partial(KBinsDiscretizer, quantile_method="averaged_inverted_cdf")
logistic = partial(LogisticRegression, max_iter=500)
boosting = partial(HistGradientBoostingClassifier, max_iter=30, random_state=0)
boosting_of_values = partial(HistGradientBoostingRegressor, max_iter=30, random_state=0)
seeded: Mapping[str, Any] = {"n_estimators": 10, "random_state": 0}


def _encoded(encoder: Any, model: Any) -> Pipeline:
    """Texts encoded, numbers as they are."""
    return make_pipeline(make_column_transformer((encoder, TEXTUAL), remainder="passthrough"), model)


def _prepared(numbers: Any, model: Any, texts: Any = None) -> Pipeline:
    """Numbers through some steps, texts through others."""
    return make_pipeline(make_column_transformer((numbers, NUMERIC), (texts or one_hot(), TEXTUAL)), model)


def _scaled(model: Any) -> Pipeline:
    return _prepared(make_pipeline(median(), scale()), model)


def _named(*parts: Any, **settings: Any) -> ColumnTransformer:
    return ColumnTransformer([(f"part{i}", *part) for i, part in enumerate(parts)], **settings)


def _cases(task: Task, engine: EngineKind, estimators: Mapping[str, Any], **settings: Any) -> dict[str, Case]:
    return {
        name: Case(estimator=estimator, task=task, engine=engine, **settings) for name, estimator in estimators.items()
    }


binary: Callable[..., dict[str, Case]] = partial(_cases, Task.BINARY)
multiclass: Callable[..., dict[str, Case]] = partial(_cases, Task.MULTICLASS)
regression: Callable[..., dict[str, Case]] = partial(_cases, Task.REGRESSION)
ONNX, SKOPS = EngineKind.ONNX, EngineKind.SKOPS

NUMBERS_ALONE = {
    **binary(
        ONNX,
        {
            "HistGradientBoosting, numbers alone": boosting(),
            "linear, numbers alone": make_pipeline(median(), scale(), logistic()),
        },
        only=("age", "income", "debt", "owner", "grade"),
    ),
    **regression(
        ONNX,
        {"HistGradientBoosting of values, numbers alone": boosting_of_values()},
        only=("age", "income", "debt", "owner", "grade"),
    ),
}

TREES = {
    **binary(
        ONNX,
        {
            "HistGradientBoosting": _encoded(one_hot(), boosting()),
            "HistGradientBoosting, OrdinalEncoder": _encoded(ordinal(), boosting()),
            "HistGradientBoosting, OrdinalEncoder unknown is NaN": _encoded(ordinal(unknown_value=np.nan), boosting()),
            "HistGradientBoosting, OrdinalEncoder min_frequency": _encoded(ordinal(min_frequency=200), boosting()),
            "HistGradientBoosting, OneHotEncoder drop": _encoded(one_hot(drop="if_binary"), boosting()),
            "HistGradientBoosting, TargetEncoder": _encoded(TargetEncoder(), boosting()),
            "HistGradientBoosting, early stopping": _encoded(one_hot(), boosting(early_stopping=True)),
            "RandomForest": _encoded(one_hot(), RandomForestClassifier(**seeded)),
            "RandomForest, median": _prepared(median(), RandomForestClassifier(**seeded)),
            "ExtraTrees": _encoded(one_hot(), ExtraTreesClassifier(**seeded)),
            "ExtraTrees, mean": _prepared(SimpleImputer(), ExtraTreesClassifier(**seeded)),
            "GradientBoosting": _prepared(median(), GradientBoostingClassifier(**seeded)),
            "DecisionTree": _encoded(one_hot(), DecisionTreeClassifier(random_state=0)),
            "AdaBoost": _prepared(median(), AdaBoostClassifier(n_estimators=5, random_state=0)),
            "Bagging": _prepared(median(), BaggingClassifier(n_estimators=5, random_state=0)),
        },
    ),
    **multiclass(
        ONNX,
        {
            "HistGradientBoosting, classes": _encoded(one_hot(), boosting()),
            "RandomForest, classes": _encoded(one_hot(), RandomForestClassifier(**seeded)),
            "GradientBoosting, classes": _prepared(median(), GradientBoostingClassifier(**seeded)),
        },
    ),
    **regression(
        ONNX,
        {
            "HistGradientBoosting, values": _encoded(one_hot(), boosting_of_values()),
            "RandomForest, values": _encoded(one_hot(), RandomForestRegressor(**seeded)),
            "ExtraTrees, values": _encoded(one_hot(), ExtraTreesRegressor(**seeded)),
            "GradientBoosting, values": _prepared(median(), GradientBoostingRegressor(**seeded)),
            "DecisionTree, values": _encoded(one_hot(), DecisionTreeRegressor(random_state=0)),
        },
    ),
    **binary(
        SKOPS,
        {
            "HistGradientBoosting, native categories": _encoded(ordinal(), boosting(categorical_features=[0, 1])),
            "HistGradientBoosting, StandardScaler": _prepared(scale(), boosting()),
            "RandomForest, StandardScaler": _scaled(RandomForestClassifier(**seeded)),
        },
    ),
}
OTHERS = {
    **binary(
        ONNX,
        {
            "LogisticRegression": _scaled(logistic()),
            "LogisticRegression, unscaled": _prepared(median(), logistic(solver="newton-cholesky")),
            "LogisticRegression, sparse one-hot": _prepared(
                make_pipeline(median(), scale()), logistic(), OneHotEncoder(handle_unknown="ignore")
            ),
            "MinMaxScaler": _prepared(make_pipeline(median(), MinMaxScaler(clip=True)), logistic()),
            "RobustScaler": _prepared(make_pipeline(median(), RobustScaler()), logistic()),
            "MaxAbsScaler": _prepared(make_pipeline(median(), MaxAbsScaler()), logistic()),
            "PowerTransformer": make_pipeline(
                _named((make_pipeline(median(), PowerTransformer()), ["age", "grade"])), logistic()
            ),
            "PolynomialFeatures": _prepared(make_pipeline(median(), scale(), PolynomialFeatures(2)), logistic()),
            "KBinsDiscretizer": make_pipeline(
                _named((make_pipeline(median(), quantiles(5)), ["age", "income", "grade"]), (one_hot(), TEXTUAL)),
                logistic(),
            ),
            "KBinsDiscretizer, ordinal": _prepared(
                make_pipeline(median(), KBinsDiscretizer(4, encode="ordinal", strategy="uniform")), logistic()
            ),
            "SimpleImputer, constant": _prepared(SimpleImputer(strategy="constant", fill_value=-1), GaussianNB()),
            "SimpleImputer, constant text": _prepared(
                make_pipeline(median(), scale()),
                logistic(),
                make_pipeline(SimpleImputer(strategy="constant", fill_value="none", missing_values=None), one_hot()),
            ),
            "SimpleImputer, most frequent text": _prepared(
                make_pipeline(median(), scale()),
                logistic(),
                make_pipeline(SimpleImputer(strategy="most_frequent", missing_values=None), one_hot()),
            ),
            "SimpleImputer, texts left as they are": _prepared(
                make_pipeline(median(), scale()),
                logistic(),
                make_pipeline(SimpleImputer(strategy="most_frequent"), one_hot()),
            ),
            "PCA": _prepared(make_pipeline(median(), scale(), PCA(3)), logistic()),
            "SelectKBest": make_pipeline(*_scaled(SelectKBest(k=4)), logistic()),
            "columns by name, rest dropped": make_pipeline(
                _named((make_pipeline(median(), scale()), ["debt", "age"]), (one_hot(), ["job"])), logistic()
            ),
            "columns by name, rest passed": make_pipeline(
                _named((one_hot(), ["job"]), ("drop", ["city"]), remainder="passthrough"), boosting()
            ),
            "columns by place": make_pipeline(_named((one_hot(), [1, 5]), remainder="passthrough"), boosting()),
            "pipelines in pipelines": make_pipeline(
                make_pipeline(_named((make_pipeline(make_pipeline(one_hot())), TEXTUAL), remainder="passthrough")),
                make_pipeline(boosting()),
            ),
            "CalibratedClassifierCV": _encoded(one_hot(), CalibratedClassifierCV(boosting(), cv=2)),
            "CalibratedClassifierCV, LinearSVC": _scaled(CalibratedClassifierCV(LinearSVC(), cv=2)),
            "VotingClassifier": _encoded(
                one_hot(),
                VotingClassifier([("a", boosting()), ("b", RandomForestClassifier(**seeded))], voting="soft"),
            ),
            "StackingClassifier": _scaled(StackingClassifier([("a", logistic()), ("b", GaussianNB())], cv=2)),
            "GridSearchCV": GridSearchCV(_scaled(logistic()), {"logisticregression__C": [0.1, 1.0]}, cv=2),
            "SGDClassifier": _scaled(SGDClassifier(loss="log_loss", random_state=0)),
            "GaussianNB": _scaled(GaussianNB()),
            "MLP": _scaled(MLPClassifier((8,), random_state=0, max_iter=1000, tol=1e-2)),
            "SVC": _scaled(CalibratedClassifierCV(SVC(), ensemble=False, cv=2)),
        },
    ),
    **multiclass(ONNX, {"LogisticRegression, classes": _scaled(logistic())}),
    **regression(
        ONNX,
        {
            "Ridge": _scaled(Ridge()),
            "LinearRegression": _scaled(LinearRegression()),
            "ElasticNet": _scaled(ElasticNet()),
            "TweedieRegressor": _scaled(TweedieRegressor()),
            "VotingRegressor": _scaled(VotingRegressor([("a", Ridge()), ("b", LinearRegression())])),
            "MLP, values": _scaled(MLPRegressor(hidden_layer_sizes=(8,), random_state=0, max_iter=1000, tol=1e-2)),
        },
    ),
    **binary(
        SKOPS,
        {
            "OneHotEncoder, unknown is infrequent": _encoded(
                one_hot(handle_unknown="infrequent_if_exist", min_frequency=200), boosting()
            ),
            "SimpleImputer, indicator": _prepared(make_pipeline(median(add_indicator=True), scale()), logistic()),
            "KNNImputer": _prepared(make_pipeline(scale(), KNNImputer(n_neighbors=2)), logistic()),
            "FunctionTransformer": make_pipeline(
                _named((FunctionTransformer(np.log1p), ["income"]), (one_hot(), TEXTUAL)), boosting()
            ),
            "CalibratedClassifierCV, isotonic": _encoded(
                one_hot(), CalibratedClassifierCV(boosting(), cv=2, method="isotonic")
            ),
            "CalibratedClassifierCV around a pipeline": CalibratedClassifierCV(_encoded(one_hot(), boosting()), cv=2),
            "KNeighbors": make_pipeline(_named((median(), ["age", "grade"])), KNeighborsClassifier()),
        },
    ),
    **regression(
        SKOPS,
        {
            "KNeighbors, values": _scaled(KNeighborsRegressor()),
            "SVR": _scaled(SVR()),
            "TransformedTargetRegressor": _encoded(
                one_hot(), TransformedTargetRegressor(boosting_of_values(), func=np.arcsinh, inverse_func=np.sinh)
            ),
        },
    ),
}
TABLES = {
    **binary(ONNX, {"one number, trees": DecisionTreeClassifier(max_depth=4)}, only=("income",)),
    **binary(ONNX, {"one number, linear": make_pipeline(median(), scale(), logistic())}, only=("age",)),
    **binary(ONNX, {"one text": make_pipeline(one_hot(), logistic())}, only=("city",)),
    **binary(ONNX, {"texts only, trees": make_pipeline(ordinal(), boosting())}, only=("city", "job")),
    **binary(ONNX, {"texts only, linear": _encoded(one_hot(), logistic())}, only=("city", "job")),
    **binary(ONNX, {"names taken, trees": _encoded(one_hot(), boosting())}, names=TAKEN),
    **regression(ONNX, {"names taken, linear": _scaled(Ridge())}, names=TAKEN),
    **binary(ONNX, {"text labels, trees": _encoded(one_hot(), boosting())}, labels=("no", "yes")),
    **multiclass(ONNX, {"text labels, linear": _scaled(logistic())}, labels=("c", "a", "b")),
    **binary(ONNX, {"features near 1e9, trees": _encoded(one_hot(), boosting())}, far=1e9),
    **binary(SKOPS, {"features near 1e9, linear": _scaled(logistic())}, far=1e9),
    **regression(ONNX, {"values near 1e9, trees": _encoded(one_hot(), boosting_of_values())}, scale=1e7, offset=1e9),
    **regression(ONNX, {"values near 1e9, linear": _scaled(Ridge())}, scale=1e7, offset=1e9),
    **regression(ONNX, {"values near 1e-9": _encoded(one_hot(), boosting_of_values())}, scale=1e-9),
    **regression(SKOPS, {"values around 0 up to 1e9": _encoded(one_hot(), boosting_of_values())}, scale=1e9),
}
STRICT = binary(
    SKOPS,
    {"OneHotEncoder, unknown is an error": _encoded(OneHotEncoder(sparse_output=False), boosting())},
    answers_unknown=False,
)
ZOO = NUMBERS_ALONE | TREES | OTHERS | TABLES | STRICT
