"""The bundle: all that decides a model's answers, in one folder whose name is its hash."""

import hashlib
import inspect
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np

from ml_platform.modeling.columns import Column, Kind
from ml_platform.modeling.engine import Engine, EngineKind, OnnxEngine, SklearnEngine
from ml_platform.modeling.features import FeatureSet
from ml_platform.modeling.predictions import Predictions
from ml_platform.modeling.schema import Field, Row, read_rows
from ml_platform.modeling.spec import Task

FORMAT = 2
MANIFEST = "manifest.json"
TOLERANCE = 2e-5
"""How far an answer may be from the one at training time: absolute for probabilities, relative for values."""


class BundleError(ValueError):
    """A bundle that is incomplete, changed, or of another format."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the bundle is made of; its bytes are what the bundle's hash is taken over."""

    format: int
    task: Task
    classes: tuple[Any, ...]
    fields: tuple[Field, ...]
    engine: EngineKind
    files: dict[str, str]


class Golden(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with the answers given when the model was trained."""

    rows: tuple[dict[str, Any], ...]
    answers: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Predictor:
    """A bundle in memory, ready to answer."""

    digest: str
    manifest: Manifest
    features: FeatureSet
    engine: Engine
    golden: Golden
    size: int
    """Bytes on disk."""

    @property
    def fields(self) -> tuple[Field, ...]:
        """The source columns a request must have."""
        return self.manifest.fields

    def predict(self, columns: Mapping[str, Column]) -> Predictions:
        """Predictions for source columns of n rows each."""
        scores = self.engine.scores(self.features.matrix(columns))
        return Predictions(task=self.manifest.task, scores=scores, classes=self.manifest.classes)

    def answer(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Answers for rows as a request has them.

        Raises:
            BadRowsError: when a row breaks the schema.
        """
        return self.predict(read_rows(rows, self.fields)).as_json()


def write(
    folder: Path,
    *,
    task: Task,
    classes: tuple[Any, ...],
    fields: tuple[Field, ...],
    features: ModuleType,
    engine: EngineKind,
    model: bytes,
    golden: Golden,
) -> str:
    """Write a bundle into a folder named by its hash below `folder`; there already is fine.

    Returns:
        The hash, 64 hexadecimal digits.
    """
    files = {
        f"model.{engine}": model,
        "features.py": inspect.getsource(features).encode(),
        "golden.json": msgspec.json.encode(golden, order="deterministic"),
    }
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = Manifest(format=FORMAT, task=task, classes=classes, fields=fields, engine=engine, files=hashes)
    files[MANIFEST] = msgspec.json.encode(manifest, order="deterministic")
    digest = hashlib.sha256(files[MANIFEST]).hexdigest()
    _write_whole(folder / digest, files)
    return digest


def check(folder: Path, digest: str) -> Manifest:
    """The manifest of a bundle whose every byte is as its hash says.

    Raises:
        BundleError: otherwise.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            msg = f"bundle {folder}: its contents do not have the hash {digest[:12]}"
            raise BundleError(msg)
        manifest = msgspec.json.decode(data, type=Manifest)
        for name, expected in manifest.files.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
                msg = f"bundle {folder}: {name} was changed"
                raise BundleError(msg)
    except (OSError, msgspec.DecodeError) as error:
        msg = f"bundle {folder}: incomplete or unreadable ({error})"
        raise BundleError(msg) from error
    if manifest.format != FORMAT:
        msg = f"bundle {folder}: format {manifest.format}, but this platform reads {FORMAT}"
        raise BundleError(msg)
    return manifest


def load(folder: Path, digest: str, threads: int = 1) -> Predictor:
    """A bundle from disk, checked byte for byte first; ONNX Runtime computes with `threads` threads.

    Raises:
        BundleError: when it is not what its hash says.
        UntrustedModelError: when the pipeline holds a type that is not allowed.
    """
    manifest = check(folder, digest)
    kinds = {f.name: f.kind for f in manifest.fields}
    features = FeatureSet.from_source((folder / "features.py").read_text(), kinds)
    return Predictor(
        digest=digest,
        manifest=manifest,
        features=features,
        engine=_engine(manifest, features, (folder / f"model.{manifest.engine}").read_bytes(), threads),
        golden=read_golden(folder, digest),
        size=sum(file.stat().st_size for file in folder.iterdir()),
    )


def _engine(manifest: Manifest, features: FeatureSet, model: bytes, threads: int) -> Engine:
    if manifest.engine is EngineKind.ONNX:
        return OnnxEngine.load(model, manifest.task, threads)
    from ml_platform.modeling import trust  # noqa: PLC0415 - skops and scikit-learn only where a pipeline is read

    return SklearnEngine(manifest.task, trust.load(model), tuple(features.kinds.items()))


def read_golden(folder: Path, digest: str) -> Golden:
    """The golden rows of a bundle, without loading its model.

    Raises:
        BundleError: when the bundle is not what its hash says.
    """
    check(folder, digest)
    return msgspec.json.decode((folder / "golden.json").read_bytes(), type=Golden)


def rows_of(
    columns: Mapping[str, Column], fields: Sequence[Field], picked: Sequence[int]
) -> tuple[dict[str, Any], ...]:
    """Some rows of the source columns, as a request would send them."""
    return tuple({f.name: _as_json(f, columns[f.name][i]) for f in fields} for i in picked)


def differences(answers: Sequence[Mapping[str, Any]], expected: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where answers differ from the expected ones by more than the tolerance, in words; empty when they agree."""
    if len(answers) != len(expected):
        return [f"{len(answers)} answers for {len(expected)} rows"]
    return [
        f"golden row {i}: answered {dict(a)}, at training time {dict(e)}"
        for i, (a, e) in enumerate(zip(answers, expected, strict=True))
        if not _same(a, e)
    ]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, float) or isinstance(b, float):
        return bool(np.isclose(float(a), float(b), rtol=TOLERANCE, atol=TOLERANCE))
    return bool(a == b)


def _as_json(field: Field, value: Any) -> Any:
    if field.kind is Kind.TEXT:
        return value
    if field.kind is Kind.TIME:
        return None if np.isnat(value) else f"{value}Z"
    if np.isnan(value):
        return None
    if field.dtype == "bool":
        return bool(value)
    return int(value) if field.is_whole else float(value)


def _write_whole(folder: Path, files: Mapping[str, bytes]) -> None:
    """All files or none: a folder under its final name is complete."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unfinished-"))
    for name, data in files.items():
        (unfinished / name).write_bytes(data)
    place(unfinished, folder)


def place(complete: Path, folder: Path) -> None:
    """Give a complete bundle its final name; if somebody was faster, theirs is the same."""
    complete.chmod(0o755)
    try:
        complete.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(complete)
