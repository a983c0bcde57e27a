"""Conversion: whichever engine is chosen answers as scikit-learn does, and a wrong conversion is never chosen."""

import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.feature_selection import f_classif
from sklearn.preprocessing import FunctionTransformer

from ml_platform.modeling import conversion, onnx_model, trust
from ml_platform.modeling.conversion import TOLERANCE, Converted, convert
from ml_platform.modeling.engine import Engine, EngineKind, OnnxEngine, SklearnEngine
from ml_platform.modeling.features import FeatureMatrix
from ml_platform.modeling.onnx_model import rounded_down
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.spec import Task
from ml_platform_tests.modeling.zoo import ZOO, Case

FRESH_ROWS = 20_000
REPEATED = (
    "HistGradientBoosting, classes",
    "HistGradientBoosting, OrdinalEncoder min_frequency",
    "VotingClassifier",
    "CalibratedClassifierCV, LinearSVC",
    "SimpleImputer, constant text",
    "text labels, linear",
)
DOUBLES = st.floats(allow_nan=False)
SINGLES = st.floats(width=32, allow_nan=False)


@dataclass(frozen=True)
class Fitted:
    """A case of the zoo, fitted."""

    case: Case
    pipeline: Any
    seen: FeatureMatrix

    @classmethod
    def of(cls, name: str) -> "Fitted":
        """The case of this name."""
        return cls(ZOO[name], *ZOO[name].fitted())

    @property
    def classes(self) -> tuple[Any, ...]:
        """Its class labels."""
        return () if self.case.task is Task.REGRESSION else tuple(self.pipeline.classes_.tolist())

    @property
    def reference(self) -> Engine:
        """Scikit-learn itself."""
        return SklearnEngine(self.case.task, self.pipeline, tuple(self.case.kinds.items()))

    def converted(self) -> Converted:
        """What `convert` makes of it."""
        return convert(self.pipeline, self.case.task, self.case.kinds, self.classes, self.seen, seed=1)

    def served(self, converted: Converted, kept: bytes) -> Engine:
        """The engine that answers requests, loaded from bytes as a model server does it."""
        if converted.model is not None:
            return OnnxEngine.load(converted.model, self.case.task)
        return SklearnEngine(self.case.task, trust.load(kept), tuple(self.case.kinds.items()))

    def labels(self, scores: NDArray[np.float64]) -> NDArray[Any]:
        """The labels that follow from scores."""
        return np.asarray(Predictions(task=self.case.task, scores=scores, classes=self.classes).labels())


@pytest.fixture(autouse=True)
def _hardly_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "TIMED_ROWS", 3)


@pytest.mark.filterwarnings("ignore:Found unknown categories")
@pytest.mark.parametrize("name", ZOO)
def test_what_serves_a_pipeline_answers_as_scikit_learn_does(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """On rows that the proof has not seen. It is known what converts, and nothing is printed while it does.

    Every pipeline can be kept as skops, also one that ONNX Runtime serves: the run in MLflow has it.
    """
    fitted = Fitted.of(name)
    capfd.readouterr()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = fitted.converted()

    assert capfd.readouterr() == ("", "")
    assert converted.engine is fitted.case.engine, converted.reason
    kept = trust.dump(fitted.pipeline)
    if fitted.case.answers_unknown:
        fresh = fitted.case.features(FRESH_ROWS, 3, later=True)
        expected, found = (engine.scores(fresh) for engine in (fitted.reference, fitted.served(converted, kept)))
        if fitted.case.task is Task.REGRESSION:
            usual = min(1.0, float(np.abs(expected).mean()))
            np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * usual)
        else:
            np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
            np.testing.assert_array_equal(fitted.labels(found), fitted.labels(expected))


@pytest.mark.parametrize("name", ["HistGradientBoosting, native categories", "HistGradientBoosting, StandardScaler"])
def test_a_wrong_conversion_is_refused(name: str) -> None:
    """The reason says on how many rows it is off, and how far."""
    converted = Fitted.of(name).converted()

    pattern = r"answers differently: [1-9]\d* of 20000 rows by more than 1e-05 \(at most [\d.e-]+\), \d+ labels"
    assert converted.engine is EngineKind.SKOPS
    assert re.search(pattern, converted.reason), converted.reason
    assert EngineKind.ONNX not in converted.row_us


def test_what_cannot_be_converted_is_refused_with_the_reason() -> None:
    """An estimator that the converter does not know, unseen texts as errors, rows that are all compared."""
    reasons = {
        "FunctionTransformer": "the converter refuses it",
        "OneHotEncoder, unknown is an error": "scikit-learn cannot answer the sample .* unknown categories",
        "OneHotEncoder, unknown is infrequent": "ONNX Runtime cannot answer the sample",
        "KNeighbors": "compare every row with all rows",
    }

    for name, reason in reasons.items():
        assert re.search(reason, Fitted.of(name).converted().reason)


def test_a_huge_forest_is_refused_before_it_costs_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says how large it is, and what makes it smaller."""
    monkeypatch.setattr(onnx_model, "MOST_NODES", 100)

    reason = Fitted.of("RandomForest").converted().reason

    assert re.search(r"[\d,]+ nodes, more than 100; limit max_depth", reason)


def test_a_model_that_onnx_runtime_cannot_load_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on."""
    monkeypatch.setattr(conversion, "as_onnx", lambda *_: b"not a model")

    converted = Fitted.of("LogisticRegression").converted()

    assert converted.engine is EngineKind.SKOPS
    assert "ONNX Runtime cannot run it" in converted.reason


@pytest.mark.parametrize("name", ["RandomForest", "KBinsDiscretizer", "SimpleImputer, constant text"])
def test_the_pipeline_itself_stays_as_it_was(name: str) -> None:
    """What is rounded and renamed is a copy."""
    fitted = Fitted.of(name)
    before = trust.dump(fitted.pipeline)

    fitted.converted()

    assert trust.dump(fitted.pipeline) == before


def test_a_tie_goes_to_the_first_class() -> None:
    """As in scikit-learn, and however an engine has summed it up."""
    sums = np.array([0.5, 0.49999997, 0.50000006, 0.500002])
    binary = Predictions(task=Task.BINARY, scores=sums, classes=("no", "yes"))
    several = Predictions(task=Task.MULTICLASS, scores=np.array([[0.2, 0.4, 0.40000004]]), classes=("a", "b", "c"))

    assert binary.labels().tolist() == ["no", "no", "no", "yes"]
    assert [answer["label"] for answer in binary.as_json()] == ["no", "no", "no", "yes"]
    assert several.labels().tolist() == ["b"]


def test_small_values_are_held_to_their_own_size() -> None:
    """A rate of a millionth that is twice too large is wrong, though less than the tolerance apart."""
    fitted = Fitted.of("values near 1e-9")

    expected = fitted.reference.scores(fitted.seen)

    with pytest.raises(onnx_model.NotConvertibleError, match="answers differently"):
        conversion._compared(_Twice(fitted.reference), fitted.reference, Task.REGRESSION, (), fitted.seen)
    assert np.abs(expected).max() < TOLERANCE


def test_only_scikit_learns_own_check_may_have_arguments_bound_to_it() -> None:
    """It is part of histogram gradient boosting with native categories; any other bound function is refused."""
    bound = FunctionTransformer(partial(f_classif, y=None))

    with pytest.raises(trust.UntrustedModelError, match=r"functools\.partial of sklearn\..*f_classif"):
        trust.dump(bound)


def test_the_same_pipeline_has_the_same_bytes_in_every_process() -> None:
    """A bundle is named by its hash, whatever the order in which a process goes through its sets."""
    script = (
        "import hashlib, warnings; warnings.simplefilter('ignore')\n"
        "from ml_platform.modeling import trust\n"
        "from ml_platform.modeling.onnx_model import as_onnx\n"
        "from ml_platform_tests.modeling.zoo import ZOO\n"
        f"for name in {REPEATED}:\n"
        "    pipeline, _ = ZOO[name].fitted()\n"
        "    model = as_onnx(pipeline, ZOO[name].task, tuple(ZOO[name].kinds.items()))\n"
        "    print(name, *(hashlib.sha256(data).hexdigest() for data in (model, trust.dump(pipeline))))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]

    first, second = (process.communicate()[0] for process in processes)

    assert first.count("\n") == len(REPEATED)
    assert first == second


@dataclass(frozen=True)
class _Twice:
    """An engine that answers twice of what another does."""

    other: Engine

    def scores(self, features: FeatureMatrix) -> NDArray[np.float64]:
        return 2 * self.other.scores(features)


@given(threshold=DOUBLES | SINGLES, x=SINGLES)
def test_a_threshold_rounded_down_decides_the_same(threshold: float, x: float) -> None:
    """For every single-precision x, infinite, denormal and huge ones included, and the nearest to the threshold."""
    with np.errstate(over="ignore", under="ignore"):
        near = np.float32(threshold)
        xs = np.array([x, near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))])
    (rounded,) = rounded_down(np.array([threshold]))

    np.testing.assert_array_equal(xs.astype(np.float64) <= threshold, xs <= np.float32(rounded))
    assert np.float64(np.float32(rounded)) == rounded


@given(edge=DOUBLES, x=SINGLES)
def test_a_bin_whose_edge_is_rounded_up_holds_the_same(edge: float, x: float) -> None:
    """A bin begins at its edge."""
    (rounded,) = -rounded_down(-np.array([edge]))

    assert (x < edge) == (np.float32(x) < np.float32(rounded))
