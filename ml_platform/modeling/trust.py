"""Trust: the fitted pipeline as a skops file, with the platform's own allow-list, the same bytes for the same model."""

import io
import json
import zipfile
from typing import Any

import skops.io

ALLOWED = (
    "builtins.object",
    "numpy.dtype",
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
)
"""Types beyond skops' own that scikit-learn's estimators are made of. A file never adds to it."""


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
    unknown = sorted(set(skops.io.get_untrusted_types(data=data)) - set(ALLOWED))
    if unknown:
        msg = (
            f"the pipeline holds {', '.join(unknown)}, which the platform does not load; "
            "build it from scikit-learn's own classes (features of your own belong in features.py)"
        )
        raise UntrustedModelError(msg)


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
