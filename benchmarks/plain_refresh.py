"""A refresh as a plain script: the steps of the eight rooms in order, by the same functions and doors, without Dagster.

    python -m benchmarks.plain_refresh MODEL

`benchmarks.overhead` compares Dagster with it. It starts in a fresh interpreter, imports what the rooms import, and
reads the same settings from the environment. What the rooms do for Dagster's page alone is left out: previews, tables
and pictures on materializations.
"""

import argparse
from datetime import UTC, datetime

import mlflow

from ml_platform import settings
from ml_platform.assets.validated_data import _validate, _with_reasons
from ml_platform.modeling import bundle, leakage, source_code
from ml_platform.modeling.candidate import features_table, prepare, train
from ml_platform.modeling.promotion import Release, promote
from ml_platform.modeling.scoring import score
from ml_platform.modeling.training import ModelCode
from ml_platform.modeling.validation import as_columns
from ml_platform.models.catalogue import model
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.datasets import DatasetStore, TableVersion
from ml_platform.resources.ingest import ingest
from ml_platform.resources.judging import judge
from ml_platform.resources.pins import PinStore, pin_training
from ml_platform.resources.products import Pulled, RawData, TrainedModel
from ml_platform.resources.serving import LocalServing
from ml_platform.resources.source import SourceDatabase
from ml_platform.resources.tracking import CHALLENGER, CHAMPION, DATA_VERSION, REVISION, ExperimentTracking
from ml_platform.resources.training_log import Origin, log_rows, log_training
from ml_platform.settings import Settings


class Refresh:
    """One refresh of one model; a method for each room."""

    def __init__(self, name: str, here: Settings) -> None:
        """Import the model's code and open the doors."""
        self.spec = model(name)
        self.code = ModelCode.of(self.spec)
        self.source = SourceDatabase(url=here.source_url)
        self.datasets = DatasetStore(root=here.datasets)
        self.bundles = BundleStore(root=str(here.bundles))
        self.pins = PinStore(root=str(here.pins))
        self.tracking = ExperimentTracking(url=here.mlflow_url)
        self.serving = LocalServing(url=here.serving_url, token=here.serving_token)
        mlflow.set_tracking_uri(here.mlflow_url)

    def run(self) -> str:
        """From the source table to live traffic; how it ended, in words."""
        validated = self.validated_data(self.raw_data())
        trained = self.trained_model(validated, self.features(validated))
        won, reason = self.evaluation(trained)
        if won:
            self.deployment(self.image(self.registered_model(trained, reason)))
        return reason

    def raw_data(self) -> RawData:
        """The source table, pulled."""
        pulled = ingest(self.source, self.datasets, self.spec.source, f"{self.spec.name}/raw_data", full=False)
        so_far = Pulled(cursor=pulled.cursor.dumps(), watermark=pulled.watermark)
        return RawData(table=pulled.table, as_of=None, pulled=so_far)

    def validated_data(self, raw: RawData) -> TableVersion:
        """The good rows and the bad ones, each in their table."""
        outcome = _validate(self.spec, self.code, raw, self.datasets)
        quality = self.spec.quality
        if outcome.quarantine_share > quality.max_quarantine_share or len(outcome.good) < quality.min_rows:
            msg = f"{len(outcome.good)} good rows, {len(outcome.bad)} bad ones"
            raise RuntimeError(msg)
        self.datasets.overwrite(f"{self.spec.name}/quarantine", _with_reasons(outcome))
        return self.datasets.overwrite(f"{self.spec.name}/validated_data", outcome.good)

    def features(self, validated: TableVersion) -> TableVersion:
        """The features of every row, looked through for leaks and gaps."""
        rows = self.datasets.read(validated.name, validated.version)
        computed, label = self.code.features.compute(as_columns(rows, self.code.inputs)), self.code.label(rows)
        if max(leakage.strengths(computed, label, self.spec.task).values()) >= leakage.ALMOST_CERTAIN:
            msg = "a feature knows the answer"
            raise RuntimeError(msg)
        leakage.null_shares(computed)
        return self.datasets.overwrite(f"{self.spec.name}/features", features_table(self.code, rows, computed, label))

    def trained_model(self, validated: TableVersion, features: TableVersion) -> TrainedModel:
        """A new model with its MLflow run."""
        if self.tracking.pending(self.spec.name):
            msg = "an earlier winner is not live yet"
            raise RuntimeError(msg)
        table = self.datasets.read(features.name, features.version)
        inputs = self.datasets.read(validated.name, validated.version)
        material = prepare(self.code, table, inputs)
        if self.tracking.trained(self.spec.name, material.fingerprint):
            msg = "the same rows were trained before"
            raise RuntimeError(msg)
        mlflow.set_experiment(self.spec.name)
        with mlflow.start_run() as run:
            recipe = pin_training(self.pins, self.spec, material, source_code.files(self.spec))
            origin = Origin(table=features, root=self.datasets.root, recipe=recipe)
            log_rows(mlflow, self.tracking, self.code, material, origin)
            candidate = train(self.code, material, self.bundles.path)
            log_training(mlflow, self.spec, material, candidate, self.bundles.path, recipe)
        return TrainedModel(
            run_id=run.info.run_id,
            digest=candidate.packed.predictor.digest,
            split=material.split,
            validated=validated,
            as_of=None,
        )

    def evaluation(self, trained: TrainedModel) -> tuple[bool, str]:
        """Whether it beats the champion, and why."""
        champion = self.tracking.version_with_alias(self.spec.name, CHAMPION)
        judged = judge(
            self.code,
            trained,
            champion,
            datasets=self.datasets,
            bundles=self.bundles.path,
            tracking=self.tracking,
            now=datetime.now(UTC),
        )
        found = score(judged.holdout.actual, judged.predicted[CHALLENGER])
        self.tracking.log_metrics(trained.run_id, {f"gate_{k}": v for k, v in found.items()})
        return judged.decision.won, judged.decision.reason

    def registered_model(self, trained: TrainedModel, reason: str) -> Release:
        """The winner has a version."""
        version = self.tracking.register(self.spec.name, trained.run_id, reason, self.spec.purpose, datetime.now(UTC))
        return Release(
            model=self.spec.name,
            version=version.version,
            digest=version.digest,
            run_id=version.run_id,
            data_version=version.tags[DATA_VERSION],
            code_revision=version.tags[REVISION],
        )

    def image(self, release: Release) -> Release:
        """Its bundle is in the store, and whole."""
        self.tracking.fetch_bundle(release.run_id, self.bundles.path, release.digest)
        return release

    def deployment(self, release: Release) -> None:
        """It answers live traffic."""
        folder = self.bundles.folder(release.digest)
        golden = bundle.read_golden(folder, release.digest)
        promote(release, folder, golden, serving=self.serving, registry=self.tracking, say=print)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    print(Refresh(parser.parse_args().model, settings.load()).run())


if __name__ == "__main__":
    main()
