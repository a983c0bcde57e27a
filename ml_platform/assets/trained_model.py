"""Room 4, trained_model: the model fitted on the rows it may see, logged to MLflow with what it takes to judge it."""

import tempfile
from pathlib import Path

import dagster as dg
import msgspec
from mlflow.entities import Run

from ml_platform.assets.room import BY, SOMEBODY, TRIGGER, patiently, room
from ml_platform.modeling import drawing, governor, source_code
from ml_platform.modeling.candidate import Material, prepare, train
from ml_platform.modeling.governor import Cause, Wish
from ml_platform.modeling.spec import ModelSpec
from ml_platform.modeling.splitting import Split
from ml_platform.modeling.training import ModelCode
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.datasets import DatasetStore
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.pins import PinStore, pin_training
from ml_platform.resources.products import Features, TrainedModel
from ml_platform.resources.tracking import (
    DATA_VERSION,
    DIGEST,
    ENGINE,
    FINISHED,
    REVISION,
    SPLIT,
    ExperimentTracking,
    dagster_run,
)
from ml_platform.resources.training_log import PLOTS, Origin, log_rows, log_training

SOURCE_CODE = "source_code"


def build(spec: ModelSpec) -> dg.AssetsDefinition:
    """The room for one model."""

    @room(
        spec,
        "The estimator of training.py, fitted with the spec's seed on the rows that are not held out. The same rows, "
        "code and seed are not trained twice; a registered winner that never went live goes first.",
        kinds=("scikitlearn", "mlflow"),
        after="features",
    )
    def trained_model(
        context: dg.AssetExecutionContext,
        features: Features,
        datasets: DatasetStore,
        bundles: BundleStore,
        pins: PinStore,
        tracking: ExperimentTracking,
        ledger: DecisionLedger,
        clock: Clock,
    ) -> dg.MaterializeResult[TrainedModel]:
        source, files = source_code.fingerprint(spec), source_code.files(spec)
        code = ModelCode.of(spec)
        with patiently(context):
            if TRIGGER not in context.run.tags and not features.as_of:
                _note_click(context, spec, ledger, clock)
            pending = None if features.as_of else tracking.pending(spec.name)
            if pending:
                context.log.info(f"version {pending.version} won earlier and is not live yet: it goes first")
                run = _claimed(context, tracking, spec, tracking.run(pending.run_id))
                split = msgspec.json.decode(pending.tags[SPLIT], type=Split)
                return _result(tracking, run, features, split, source, pending.version)
            table = datasets.read(features.table.name, features.table.version)
            inputs = datasets.read(features.validated.name, features.validated.version)
            material = prepare(code, table, inputs)
            earlier = tracking.trained(spec.name, material.fingerprint)
            if earlier:
                context.log.info("the same rows, code and seed were trained before: nothing to train")
                run = _claimed(context, tracking, spec, earlier)
            else:
                recipe = pin_training(pins, spec, material, files)
                origin = Origin(table=features.table, root=datasets.root, recipe=recipe)
                name = f"{clock.now():%Y-%m-%d %H:%M} {context.run.run_id[:8]}"
                run = _trained(context, tracking, code, material, bundles.path, origin, name)
        return _result(tracking, run, features, material.split, source)

    return trained_model


def _note_click(context: dg.AssetExecutionContext, spec: ModelSpec, ledger: DecisionLedger, clock: Clock) -> None:
    """What a person starts is never refused, but counts."""
    actor = context.run.tags.get(BY, SOMEBODY)
    wish = Wish(key=context.run.run_id, cause=Cause.PERSON, reason="a refresh by hand", actor=actor)
    now = clock.now()
    ledger.decide(spec.name, lambda history: governor.decide(spec.name, spec.retrain, history, wish, now))


def _trained(
    context: dg.AssetExecutionContext,
    tracking: ExperimentTracking,
    code: ModelCode,
    material: Material,
    bundles: Path,
    origin: Origin,
    name: str,
) -> Run:
    """Train and log a new MLflow run."""
    with tracking.training_run(context, code.spec.name, name) as mlflow:
        log_rows(mlflow, tracking, code, material, origin)
        candidate = train(code, material, bundles)
        log_training(mlflow, code.spec, material, candidate, bundles, origin.recipe)
        run_id = mlflow.active_run().info.run_id
    return tracking.run(run_id)


def _claimed(context: dg.AssetExecutionContext, tracking: ExperimentTracking, spec: ModelSpec, run: Run) -> Run:
    """A complete run whose Dagster run failed now belongs to this one, and ends as this one does.

    One whose Dagster run succeeded is FINISHED; one whose Dagster run is under way ends as that one does.
    """
    if run.info.status == FINISHED:
        return run
    made_by = context.instance.get_run_by_id(dagster_run(run))
    is_anothers = made_by is not None and not made_by.is_finished and made_by.run_id != context.run.run_id
    if is_anothers or tracking.end(run, made_by) == FINISHED:
        return run
    with tracking.training_run(context, spec.name, run.info.run_name, resume=run.info.run_id):
        return run


def _result(
    tracking: ExperimentTracking, run: Run, features: Features, split: Split, source: str, pending: str | None = None
) -> dg.MaterializeResult[TrainedModel]:
    tags = run.data.tags
    product = TrainedModel(
        run_id=run.info.run_id,
        digest=tags[DIGEST],
        split=split,
        validated=features.validated,
        as_of=features.as_of,
        pending_version=pending,
        pulled=None if pending else features.pulled,
    )
    with tempfile.TemporaryDirectory() as folder:
        plots = tracking.download(run.info.run_id, PLOTS, Path(folder))
        drawn = drawing.files_as_markdown(sorted(plots.glob("*.png")))
    return dg.MaterializeResult(
        value=product,
        metadata={
            **{name: dg.MetadataValue.float(float(value)) for name, value in sorted(run.data.metrics.items())},
            "mlflow_run": dg.MetadataValue.url(tracking.run_link(run)),
            "pictures": dg.MetadataValue.md(drawn),
            "bundle": tags[DIGEST],
            "engine": tags[ENGINE],
            "data_version": tags[DATA_VERSION],
            "code_revision": tags[REVISION],
            # A past week says nothing about what has been learnt from the newest rows.
            **({} if features.as_of else {SOURCE_CODE: source}),
        },
        data_version=dg.DataVersion(tags[DIGEST]),
    )
