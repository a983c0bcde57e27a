"""Experiment tracking and registry: the door to MLflow, whose runs end as the Dagster runs they belong to."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from http import HTTPStatus
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import dagster as dg
import requests
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Run, RunStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from ml_platform.modeling.promotion import Release
from ml_platform.resources.unavailable import UnavailableError

DAGSTER_RUN = "dagster_run_id"
FINGERPRINT = "ml_platform.fingerprint"
DIGEST = "ml_platform.bundle"
DATA_VERSION = "ml_platform.data_version"
REVISION = "ml_platform.code_revision"
SPLIT = "ml_platform.split"
ENGINE = "ml_platform.engine"
RECIPE = "ml_platform.recipe"
TABLE, TABLE_VERSION = "ml_platform.table", "ml_platform.table_version"
MODEL_URI = "ml_platform.model_uri"
REFUSED = "ml_platform.refused"
WAITING = "ml_platform.waiting"
RELEASED_BY, RELEASED_BECAUSE = "ml_platform.released_by", "ml_platform.released_because"
REGISTERED_AT = "ml_platform.registered_at"
CHALLENGER, CHAMPION = "challenger", "champion"
RUNNING, FINISHED = RunStatus.to_string(RunStatus.RUNNING), RunStatus.to_string(RunStatus.FINISHED)
ENDINGS = {
    dg.DagsterRunStatus.SUCCESS: RunStatus.FINISHED,
    dg.DagsterRunStatus.FAILURE: RunStatus.FAILED,
    dg.DagsterRunStatus.CANCELED: RunStatus.KILLED,
}


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version and what its tags say."""

    version: str
    run_id: str
    tags: Mapping[str, str]
    registered_at: datetime

    @property
    def digest(self) -> str:
        """Hash of its bundle."""
        return self.tags[DIGEST]

    def release(self, model: str) -> Release:
        """The version as it is served."""
        return Release(
            model=model,
            version=self.version,
            digest=self.digest,
            run_id=self.run_id,
            data_version=self.tags[DATA_VERSION],
            code_revision=self.tags[REVISION],
        )


class ExperimentTracking(dg.ConfigurableResource[None]):
    """MLflow: one experiment and one registered model per model of the catalogue."""

    url: str

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client."""
        return _client(self.url)

    @contextmanager
    def training_run(
        self, context: dg.AssetExecutionContext, experiment: str, name: str, resume: str = ""
    ) -> Iterator[Any]:
        """dagster-mlflow's resource with its run open; afterwards the run still says RUNNING.

        dagster-mlflow leaves the run to MLflow's exit handler, which calls a failed run FINISHED. Here it is closed as
        RUNNING, and `settle` gives it the ending of its Dagster run, whichever process that ended in.

        Args:
            context: of the room.
            experiment: where a new run is made.
            name: what the run is called; dagster-mlflow names it, one that it resumes too, after the Dagster job.
            resume: the id of a run to go on with.
        """
        from dagster_mlflow import mlflow_tracking  # noqa: PLC0415 - 3 s

        definition = mlflow_tracking.configured(
            {
                "experiment_name": experiment,
                "mlflow_tracking_uri": self.url,
                "mlflow_run_id": resume or None,
                "env": {},
                "extra_tags": {},
            }
        )
        with dg.build_resources(
            {"mlflow": definition}, instance=context.instance, dagster_run=context.run, log_manager=context.log
        ) as resources:
            mlflow = resources.mlflow
            try:
                mlflow.set_tag(MLFLOW_RUN_NAME, name)
                yield mlflow
            except dg.DagsterExecutionInterruptedError:
                mlflow.end_run(RunStatus.to_string(RunStatus.KILLED))
                raise
            except BaseException:
                mlflow.end_run(RunStatus.to_string(RunStatus.FAILED))
                raise
            mlflow.end_run(RUNNING)

    def settle(self, instance: dg.DagsterInstance) -> dict[str, str]:
        """Give every open MLflow run the ending of its Dagster run, if that has ended.

        Returns:
            The new status by MLflow run id.
        """
        with reaching(self.url):
            experiments = [e.experiment_id for e in self.client.search_experiments()]
            found = self.client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=200)
        statuses = {run.info.run_id: self.end(run, instance.get_run_by_id(dagster_run(run))) for run in found}
        return {run_id: status for run_id, status in statuses.items() if status != RUNNING}

    def end(self, run: Run, made_by: dg.DagsterRun | None) -> str:
        """Give an MLflow run the ending of its Dagster run, if that is known and has ended.

        Returns:
            The status of the MLflow run then.
        """
        status = str(run.info.status)
        if made_by is None or made_by.status not in ENDINGS:
            return status
        ending = RunStatus.to_string(ENDINGS[made_by.status])
        if status != ending:
            with reaching(self.url):
                self.client.set_terminated(run.info.run_id, ending)
        return ending

    def trained(self, model: str, fingerprint: str) -> Run | None:
        """The newest run that trained a model from exactly this, to the end."""
        with reaching(self.url):
            experiment = self.client.get_experiment_by_name(model)
            if experiment is None:
                return None
            query = f"tags.`{FINGERPRINT}` = '{fingerprint}' and tags.`{MODEL_URI}` != ''"
            runs = self.client.search_runs([experiment.experiment_id], query, max_results=1)
        return runs[0] if runs else None

    def run(self, run_id: str) -> Run:
        """A run by its id."""
        with reaching(self.url):
            return self.client.get_run(run_id)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Add metrics to a run."""
        with reaching(self.url):
            for name, value in metrics.items():
                self.client.log_metric(run_id, name, value)

    def log_datasets(self, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        """Add datasets to those that a run used."""
        with reaching(self.url):
            self.client.log_inputs(run_id, list(datasets))

    def download(self, run_id: str, path: str, folder: Path) -> Path:
        """An artifact of a run, on disk below `folder`."""
        with reaching(self.url):
            return Path(self.client.download_artifacts(run_id, path, str(folder)))

    def has_artifact(self, run_id: str, path: str) -> bool:
        """Whether a run has a file of this name at its top."""
        with reaching(self.url):
            return any(artifact.path == path for artifact in self.client.list_artifacts(run_id))

    def fetch_bundle(self, run_id: str, store: Path, digest: str) -> Path:
        """The bundle that a run trained, in the store; downloaded only if it is not there.

        Raises:
            BundleError: when MLflow does not have it any more, or what it has is not what the hash says.
            UnavailableError: when MLflow cannot be reached.
        """
        from ml_platform.modeling import bundle  # noqa: PLC0415

        folder = store / digest
        if not folder.exists():
            store.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=store, prefix=".download-") as temporary:
                try:
                    downloaded = self.download(run_id, f"bundle/{digest}", Path(temporary))
                except UnavailableError:
                    raise
                except (MlflowException, requests.HTTPError, OSError) as error:
                    msg = f"MLflow's run {run_id} has no bundle {digest[:12]} any more ({error})"
                    raise bundle.BundleError(msg) from error
                bundle.check(downloaded, digest)
                bundle.place(downloaded, folder)
        bundle.check(folder, digest)
        return folder

    def version_with_alias(self, model: str, alias: str) -> Version | None:
        """The version an alias names, if any."""
        with reaching(self.url):
            try:
                return _version(self.client.get_model_version_by_alias(model, alias))
            except MlflowException as error:
                if error.error_code in (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def pending(self, model: str) -> Version | None:
        """The registered winner that may go live and does not answer yet, if any."""
        challenger = self.version_with_alias(model, CHALLENGER)
        champion = self.version_with_alias(model, CHAMPION)
        if challenger is None or {REFUSED, WAITING} & challenger.tags.keys():
            return None
        if champion is not None and int(champion.version) >= int(challenger.version):
            return None
        return challenger

    def register(
        self, model: str, run_id: str, description: str, purpose: str, now: datetime, waiting: str = ""
    ) -> Version:
        """The version of a run's model, named by the challenger alias; registered only once.

        Args:
            model: its registered model.
            run_id: the run that trained it.
            description: why it was registered.
            purpose: what the model is for.
            now: the time.
            waiting: whom it waits for before it may go live, if for anybody.
        """
        with reaching(self.url):
            run = self.client.get_run(run_id)
            try:
                self.client.create_registered_model(model, description=purpose)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            there = self.client.search_model_versions(f"name = '{model}' and run_id = '{run_id}'")
            marks = {REGISTERED_AT: now.isoformat()} | ({WAITING: waiting} if waiting else {})
            copied = (FINGERPRINT, DIGEST, DATA_VERSION, REVISION, SPLIT)
            version = (
                there[0]
                if there
                else self.client.create_model_version(
                    model,
                    source=run.data.tags[MODEL_URI],
                    run_id=run_id,
                    model_id=run.data.tags[MODEL_URI].rpartition("/")[2],
                    description=description,
                    tags={name: run.data.tags[name] for name in copied} | marks,
                )
            )
            self.client.set_registered_model_alias(model, CHALLENGER, version.version)
            return _version(self.client.get_model_version(model, version.version))

    def refuse(self, model: str, version: str, reason: str) -> None:
        """Remember that a version must not go live; nobody tries again."""
        with reaching(self.url):
            self.client.set_model_version_tag(model, version, REFUSED, reason[:4000])

    def release(self, model: str, version: str, by: str, because: str) -> None:
        """A version that waits may go live: it is the challenger, and remembers who let it and why."""
        with reaching(self.url):
            self.client.set_registered_model_alias(model, CHALLENGER, version)
            self.client.set_model_version_tag(model, version, RELEASED_BY, by)
            self.client.set_model_version_tag(model, version, RELEASED_BECAUSE, because[:4000])
            self.client.delete_model_version_tag(model, version, WAITING)

    def forgive(self, model: str, version: str) -> None:
        """A version that was refused may go live after all: a person wants it."""
        with reaching(self.url):
            if REFUSED in self.client.get_model_version(model, version).tags:
                self.client.delete_model_version_tag(model, version, REFUSED)

    def version(self, model: str, version: str) -> Version | None:
        """A registered version, if there is one of that number."""
        with reaching(self.url):
            try:
                return _version(self.client.get_model_version(model, version))
            except MlflowException as error:
                if error.error_code in (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def aliases(self) -> dict[str, dict[str, str]]:
        """The version that each alias of each registered model names, in one question."""
        with reaching(self.url):
            found = self.client.search_registered_models(max_results=1000)
        return {model.name: {str(a): str(v) for a, v in model.aliases.items()} for model in found}

    def tagged(self, tag: str) -> dict[str, frozenset[str]]:
        """The versions of each registered model that have a tag, in one question."""
        with reaching(self.url):
            found = self.client.search_model_versions(f"tags.`{tag}` LIKE '%'", max_results=10_000)
        return {
            model: frozenset(str(version.version) for version in versions)
            for model, versions in groupby(sorted(found, key=attrgetter("name")), key=attrgetter("name"))
        }

    def refusal(self, model: str, digest: str) -> str | None:
        """Why a registered version with this bundle must not go live, if there is one."""
        with reaching(self.url):
            query = f"name = '{model}' and tags.`{DIGEST}` = '{digest}'"
            found = self.client.search_model_versions(query)
        return next((f"version {v.version} was refused: {v.tags[REFUSED]}" for v in found if REFUSED in v.tags), None)

    def champion_version(self, model: str) -> str | None:
        """The version that the champion alias names."""
        champion = self.version_with_alias(model, CHAMPION)
        return champion.version if champion else None

    def set_champion(self, model: str, version: str) -> None:
        """Move the champion alias."""
        with reaching(self.url):
            self.client.set_registered_model_alias(model, CHAMPION, version)

    def run_link(self, run: Run) -> str:
        """The page of a run."""
        return f"{self.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"

    def version_link(self, model: str, version: str) -> str:
        """The page of a registered version."""
        return f"{self.url}/#/models/{model}/versions/{version}"


def dagster_run(run: Run) -> str:
    """The id of the Dagster run that an MLflow run belongs to; empty when it belongs to none."""
    return str(run.data.tags.get(DAGSTER_RUN, ""))


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn MLflow's network errors into the one error that is worth another try."""
    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        if _is_outage(error):
            msg = f"MLflow at {url} cannot be reached ({type(error).__name__}); is it running?"
            raise UnavailableError(msg) from error
        raise


def _is_outage(error: MlflowException | requests.RequestException) -> bool:
    """Whether MLflow did not answer, or only that it cannot right now; a plain no will not change."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return bool(error.response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR)
    return isinstance(error, requests.RequestException) or "API request to" in str(error)


@lru_cache(maxsize=4)
def _client(url: str) -> MlflowClient:
    return MlflowClient(tracking_uri=url, registry_uri=url)


def _version(found: ModelVersion) -> Version:
    tags = dict(found.tags)
    # The platform's clock may be set; MLflow's own time stands in where a version was registered without it.
    written = tags.get(REGISTERED_AT)
    at = datetime.fromisoformat(written) if written else datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(version=str(found.version), run_id=found.run_id or "", tags=tags, registered_at=at)
