"""The contract that every model of the catalogue keeps, also those that are not written yet."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.modeling.bundle import differences, rows_of
from ml_platform.modeling.candidate import Fitted, pack
from ml_platform.modeling.columns import DTYPES, Kind
from ml_platform.modeling.conversion import convert
from ml_platform.modeling.drift.decision import State
from ml_platform.modeling.drift.judging import judge
from ml_platform.modeling.drift.profile import Profile
from ml_platform.modeling.engine import EngineKind, as_frame
from ml_platform.modeling.schema import read_rows
from ml_platform.modeling.spec import ModelSpec, Task
from ml_platform.modeling.training import ModelCode, as_classes, fit, known
from ml_platform.modeling.validation import as_columns, validate
from ml_platform.models.catalogue import all_models
from ml_platform_tests.rows import random_rows

ROWS = 300
MODELS = pytest.mark.parametrize("spec", all_models(), ids=lambda spec: spec.name)


@MODELS
def test_the_folder_agrees_with_its_spec(spec: ModelSpec) -> None:
    """Schema, features and training import, and name only columns that exist."""
    code = ModelCode.of(spec)

    assert code.inputs
    assert code.spec.name == spec.package.rpartition(".")[2]


@MODELS
def test_everything_is_documented(spec: ModelSpec) -> None:
    """A model card, a description for every column, a docstring for every feature."""
    code = ModelCode.of(spec)
    folder = Path(code.features_module.__file__ or "").parent

    assert (folder / "README.md").read_text(encoding="utf-8").startswith(f"# {spec.name}")
    assert [f.name for f in code.fields if not f.description] == []
    assert [f.name for f in code.features.features if f.function and not f.description] == []


@MODELS
def test_features_need_nothing_but_numpy_and_the_column_types(spec: ModelSpec) -> None:
    """The source of the features travels in the bundle, so it may import only what the model server has."""
    tree = ast.parse(Path(ModelCode.of(spec).features_module.__file__ or "").read_text(encoding="utf-8"))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}

    assert imported <= {"numpy", "ml_platform.modeling.columns"}


@MODELS
def test_protected_columns_are_never_inputs(spec: ModelSpec) -> None:
    """Slices are for looking, not for deciding."""
    assert set(spec.slices) & set(ModelCode.of(spec).features.columns) == set()


@MODELS
@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), start=st.integers(0, ROWS - 1), length=st.integers(1, ROWS))
def test_any_slice_of_the_rows_has_the_features_of_the_whole(
    spec: ModelSpec, seed: int, start: int, length: int
) -> None:
    """One row included: what training saw is what serving computes."""
    code = ModelCode.of(spec)
    columns = as_columns(random_rows(code.inputs, ROWS, seed), code.inputs)
    part = slice(start, start + length)

    whole = code.features.compute(columns)
    sliced = code.features.compute({name: values[part] for name, values in columns.items()})

    for name, values in whole.items():
        np.testing.assert_array_equal(sliced[name], values[part], err_msg=name)


@MODELS
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_features_have_their_kind_and_are_single_precision(spec: ModelSpec, seed: int) -> None:
    """The schema decides the type, never the data at hand; numbers fit into float32."""
    code = ModelCode.of(spec)

    made = code.features.compute(as_columns(random_rows(code.inputs, 5, seed, nulls=0.9), code.inputs))

    for name, kind in code.features.kinds.items():
        assert made[name].dtype == DTYPES[kind]
        if kind is Kind.NUMBER:
            np.testing.assert_array_equal(made[name].astype(np.float32).astype(float), made[name])


@MODELS
def test_random_rows_pass_the_schema(spec: ModelSpec) -> None:
    """The rows these tests are made of are rows the platform would train on."""
    code = ModelCode.of(spec)

    outcome = validate(random_rows(code.fields, ROWS, 1), code.schema)

    assert outcome.failures.rows() == []


@MODELS
def test_the_bundle_answers_as_the_pipeline_it_was_made_of(spec: ModelSpec, tmp_path: Path) -> None:
    """Fit, write, load, and ask over JSON: nothing changes on the way; the same again has the same hash."""
    code = ModelCode.of(spec)
    rows = random_rows(code.fields, ROWS, 2)
    label = code.label(rows)
    usable = known(label)
    columns = {name: values[usable] for name, values in as_columns(rows, code.inputs).items()}
    features = code.features.matrix(columns)
    packed = []
    for _ in range(2):
        pipeline, classes = fit(code, features, label[usable])
        fitted = Fitted(
            pipeline=pipeline,
            task=spec.task,
            classes=classes,
            fields=code.inputs,
            features=code.features,
            features_module=code.features_module,
        )
        packed.append(pack(fitted, features, columns, tmp_path, seed=1))
    first, second = packed
    some = list(range(0, int(usable.sum()), 10))
    expected = first.predicted.as_json()

    answers = first.predictor.answer(rows_of(columns, code.inputs, some))

    assert first.predictor.digest == second.predictor.digest
    assert differences(answers, [expected[i] for i in some]) == []


@MODELS
def test_the_demo_models_are_converted(spec: ModelSpec) -> None:
    """ONNX Runtime serves them: no label differs, and one row costs a fraction."""
    code = ModelCode.of(spec)
    rows = random_rows(code.fields, ROWS, 2)
    label = code.label(rows)
    usable = known(label)
    features = code.features.matrix(as_columns(rows.filter(usable), code.inputs))
    pipeline, classes = fit(code, features, label[usable])

    converted = convert(pipeline, spec.task, code.features.kinds, classes, features, seed=1)

    assert converted.engine is EngineKind.ONNX, converted.reason
    assert converted.row_us[EngineKind.ONNX] * 10 < converted.row_us[EngineKind.SKOPS]


@MODELS
def test_a_request_is_read_as_training_reads_the_table(spec: ModelSpec) -> None:
    """JSON in, the same columns out."""
    code = ModelCode.of(spec)
    columns = as_columns(random_rows(code.inputs, 50, 3), code.inputs)

    read = read_rows(rows_of(columns, code.inputs, range(50)), code.inputs)

    for name, values in columns.items():
        np.testing.assert_array_equal(read[name], values, err_msg=name)


@MODELS
def test_requests_like_the_training_rows_do_not_drift(spec: ModelSpec) -> None:
    """As the prediction log has them, in JSON: every column is of the kind it was trained on."""
    code = ModelCode.of(spec)
    profile = Profile.of(random_rows(code.inputs, 1000, 6))
    columns = as_columns(random_rows(code.inputs, ROWS, 7), code.inputs)
    asked = json.loads(json.dumps(rows_of(columns, code.inputs, range(ROWS))))

    verdict = judge([profile], [pl.from_dicts(asked, infer_schema_length=None, strict=False)], 1 / 365)

    assert (verdict.state, verdict.alarms) == (State.OK, ())


def test_specs_import_nothing_heavy() -> None:
    """Every Dagster process reads every spec, so a spec costs milliseconds."""
    script = (
        "import sys; from ml_platform.models.catalogue import all_models; all_models();"
        "heavy = {'sklearn', 'pandas', 'pandera', 'mlflow', 'dagster', 'polars', 'numpy'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@MODELS
def test_the_label_is_what_the_task_says(spec: ModelSpec) -> None:
    """Two classes for a binary model, more for a multiclass one, numbers for a regression."""
    code = ModelCode.of(spec)
    label = code.label(random_rows(code.fields, ROWS, 4))
    label = label[known(label)]

    if spec.task is Task.REGRESSION:
        assert label.dtype == np.float64
    else:
        classes = set(as_classes(label).tolist())
        assert len(classes) == 2 if spec.task is Task.BINARY else len(classes) > 2


@MODELS
def test_the_estimator_is_seeded(spec: ModelSpec) -> None:
    """Twice the same rows and seed, twice the same scores."""
    code = ModelCode.of(spec)
    rows = random_rows(code.fields, ROWS, 5)
    label = code.label(rows)
    usable = known(label)
    features = code.features.matrix(as_columns(rows.filter(usable), code.inputs))
    frame = as_frame(features, tuple(code.features.kinds.items()))

    first, second = (fit(code, features, label[usable])[0].predict(frame) for _ in range(2))

    np.testing.assert_array_equal(first, second)
