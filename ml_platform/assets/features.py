"""Room 3, features: the model's column functions applied to every row, by the code that serving runs."""

from collections.abc import Iterator

import dagster as dg

from ml_platform.assets.room import as_table, columns_of, first_rows, room
from ml_platform.modeling import leakage
from ml_platform.modeling.candidate import features_table
from ml_platform.modeling.spec import ModelSpec
from ml_platform.modeling.training import ModelCode, known
from ml_platform.modeling.validation import as_columns
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.products import Features, ValidatedData

MOST_NULLS = 0.95


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""
    table = f"{spec.name}/features"

    @room(
        spec,
        "Key, label and features of every validated row. The functions in features.py run here on all rows and in "
        "the model server on one.",
        kinds=("numpy", "deltalake"),
        after="validated_data",
        checks={"leakage": "No feature knows the answer", "nulls": "No feature is almost always missing"},
    )
    def features(validated_data: ValidatedData, datasets: DatasetStore) -> Iterator[dg.MaterializeResult[Features]]:
        code = ModelCode.of(spec)
        rows = datasets.read(validated_data.table.name, validated_data.table.version)
        computed, label = code.features.compute(as_columns(rows, code.inputs)), code.label(rows)
        frame = features_table(code, rows, computed, label)
        written = datasets.overwrite(table, frame)
        strengths = leakage.strengths(computed, label, spec.task)
        nulls = leakage.null_shares(computed)
        docs = {f.name: {"kind": f.kind.value, "what": f.description or "as it is"} for f in code.features.features}
        yield dg.MaterializeResult(
            value=Features(
                table=written,
                validated=validated_data.table,
                as_of=validated_data.as_of,
                pulled=validated_data.pulled,
            ),
            metadata={
                "dagster/row_count": dg.MetadataValue.int(len(frame)),
                "dagster/column_schema": columns_of(frame),
                "rows_labelled": dg.MetadataValue.int(int(known(label).sum())),
                "features": as_table(docs, "feature"),
                "preview": first_rows(frame),
                "table_version": dg.MetadataValue.int(written.version),
            },
            check_results=[_leakage_check(spec, code, strengths), _nulls_check(nulls)],
        )

    return features


def _leakage_check(spec: ModelSpec, code: ModelCode, strengths: dict[str, float]) -> dg.AssetCheckResult:
    certain = [name for name, strength in strengths.items() if strength >= leakage.ALMOST_CERTAIN]
    protected = sorted(set(spec.slices) & set(code.features.columns))
    strongest = max(strengths, key=strengths.__getitem__)
    return dg.AssetCheckResult(
        check_name="leakage",
        passed=not certain and not protected,
        metadata={
            "almost_certain": ", ".join(certain) or "none",
            "protected_columns_used": ", ".join(protected) or "none",
            "strongest": strongest,
            "strongest_strength": strengths[strongest],
        },
    )


def _nulls_check(nulls: dict[str, float]) -> dg.AssetCheckResult:
    empty = {name: share for name, share in nulls.items() if share > MOST_NULLS}
    return dg.AssetCheckResult(
        check_name="nulls",
        passed=not empty,
        metadata={
            "almost_always_missing": ", ".join(empty) or "none",
            "shares": as_table({name: {"missing": share} for name, share in nulls.items() if share > 0}, "feature"),
        },
    )
