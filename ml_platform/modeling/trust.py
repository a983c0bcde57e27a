"""Trust: the fitted pipeline as a skops file, with the platform's own allow-list, the same bytes for the same model."""

import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import skops.io

ALLOWED = (
    "builtins.object",
    "functools.partial",
    "numpy.dtype",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn._loss._loss.CyHalfBinomialLoss",
    "sklearn._loss._loss.CyHalfMultinomialLoss",
    "sklearn._loss._loss.CyHalfSquaredError",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn._loss.loss.HalfMultinomialLoss",
    "sklearn._loss.loss.HalfSquaredError",
    "sklearn._loss.loss.HalfTweedieLoss",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
    "sklearn.feature_selection._mutual_info.mutual_info_classif",
    "sklearn.feature_selection._mutual_info.mutual_info_regression",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._scorer._PassthroughScorer",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.utils._bunch.Bunch",
    "sklearn.utils.validation.check_array",
)
"""Types beyond skops' own that scikit-learn's estimators are made of. A file never adds to it."""
CHECKED_INPUT = "sklearn.utils.validation.check_array"
"""The one function that may have arguments bound to it: HistGradientBoosting with categories checks its input so."""


class UntrustedModelError(ValueError):
    """A pipeline with a type that is not on the allow-list."""


def dump(pipeline: object) -> bytes:
    """The pipeline as a skops file; equal pipelines give equal bytes.

    Raises:
        UntrustedModelError: when it could not be loaded again.
    """
    data = _canonical(skops.io.dumps(pipeline))
    _check(data)
    return data


def load(data: bytes) -> Any:
    """The pipeline in a skops file.

    Raises:
        UntrustedModelError: when the file names a type that is not on the allow-list.
    """
    _check(data)
    return skops.io.loads(data, trusted=list(ALLOWED))


def _check(data: bytes) -> None:
    unknown = set(skops.io.get_untrusted_types(data=data)) - set(ALLOWED)
    unknown |= {f"functools.partial of {name}" for name in _prepared(_schema(data)) if name != CHECKED_INPUT}
    if unknown:
        msg = (
            f"the pipeline holds {', '.join(sorted(unknown))}, which the platform does not load; "
            "build it of what docs/serving.md lists (features of your own belong in features.py)"
        )
        raise UntrustedModelError(msg)


def _schema(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return json.loads(archive.read("schema.json"))


def _prepared(node: Any) -> Iterator[str]:
    """The names of all functions that have arguments bound to them."""
    if isinstance(node, dict):
        if node.get("__loader__") == "PartialNode":
            function = node["content"]["func"]
            yield f"{function['__module__']}.{function['__class__']}"
        node = list(node.values())
    if isinstance(node, list):
        for inside in node:
            yield from _prepared(inside)


def _canonical(data: bytes) -> bytes:
    """Replace memory addresses and clock times, the only things in the file that the model does not decide."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    numbers: dict[int, int] = {}
    names: dict[str, str] = {}
    schema = _renumbered(json.loads(files.pop("schema.json")), numbers, names)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("schema.json"), json.dumps(schema, sort_keys=True))
        for old, new in names.items():
            archive.writestr(zipfile.ZipInfo(new), files[old])
    return out.getvalue()


def _renumbered(node: Any, numbers: dict[int, int], names: dict[str, str]) -> Any:
    """The tree with objects numbered, and files named, in the order in which they appear."""
    if isinstance(node, list):
        return [_renumbered(item, numbers, names) for item in node]
    if not isinstance(node, dict):
        return node
    new: dict[str, Any] = {}
    for key, value in node.items():
        if key == "__id__":
            new[key] = numbers.setdefault(value, len(numbers) + 1)
        elif key == "file" and isinstance(value, str):
            new[key] = names.setdefault(value, f"{len(names) + 1}.{value.rpartition('.')[2]}")
        else:
            new[key] = _renumbered(value, numbers, names)
    return new
