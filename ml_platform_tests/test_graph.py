"""The asset graph as people see it: a change of it is a change of this readable file, and so a reviewed one."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster._core.snap.snap_to_yaml import default_values_yaml_from_type_snap
from dagster._serdes import serialize_value

from ml_platform import settings
from ml_platform.automation.clicks import ROLLBACK
from ml_platform.definitions import definitions_for
from ml_platform.modeling.spec import Approval
from ml_platform.models.catalogue import model

SNAPSHOT = Path(__file__).parent / "graph.txt"


def described(definitions: dg.Definitions) -> str:
    """Every asset with what it follows, its checks and how it looks; then jobs, schedules and sensors."""
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    lines = []
    for key in graph.toposorted_asset_keys:
        node = graph.get(key)
        lines.append(key.to_user_string())
        after = ", ".join(sorted(parent.to_user_string() for parent in node.parent_keys)) or "nothing"
        lines.append(f"    after {after}")
        lines.append(
            f"    group {node.group_name}, owners {', '.join(node.owners)}, pools {', '.join(node.pools or ())}"
        )
        lines.append(
            f"    kinds {', '.join(sorted(node.kinds))}; {'freshness policy' if node.freshness_policy else '-'}"
        )
        checks = sorted(check.name for check in node.check_keys)
        lines.append(f"    blocking checks {', '.join(checks) or '-'}")
    lines += [f"job {name}" for name in sorted(repository.job_names) if not name.startswith("__")]
    lines += [f"schedule {s.name}: {s.cron_schedule}, job {s.job_name}" for s in repository.schedule_defs]
    lines += [f"sensor {s.name}" for s in sorted(repository.sensor_defs, key=lambda s: s.name)]
    return "\n".join(lines) + "\n"


def test_the_graph_of_a_model_is_as_written_down() -> None:
    """To change it: delete graph.txt, run this test, read the difference, commit it."""
    now = described(definitions_for((model("loan_approval"),), settings.load()))
    if not SNAPSHOT.exists():
        SNAPSHOT.write_text(now, encoding="utf-8")
        pytest.fail(f"{SNAPSHOT.name} was missing and is written anew: read it and commit it")

    assert now == SNAPSHOT.read_text(encoding="utf-8")


def test_every_model_has_the_same_rooms() -> None:
    """A model is a folder; its lifecycle is derived."""
    one, other = (
        described(definitions_for((model(name),), settings.load())) for name in ("loan_approval", "student_dropout")
    )

    rooms = [
        [line.partition("/")[2] for line in text.splitlines() if "/" in line and line[0] != " "]
        for text in (one, other)
    ]
    assert rooms[0] == rooms[1]


def test_a_code_server_can_tell_dagster_all_of_it() -> None:
    """Importing the definitions does not look at every job; telling them does."""
    spec = model("loan_approval")
    models = (replace(spec, promotion=replace(spec.promotion, approval=Approval.HUMAN)), model("student_dropout"))
    told = RepositorySnap.from_def(definitions_for(models, settings.load()).get_repository_def(), defer_snapshots=True)

    assert {job.name for job in told.job_refs or ()} >= {"refresh", "rollback", "approve"}


def test_the_launchpad_asks_only_for_what_a_person_decides() -> None:
    """No address of a resource stands there to be sent with the run, as a mask or otherwise."""
    job = definitions_for((model("loan_approval"),), settings.load()).resolve_job_def(ROLLBACK)
    schema = job.get_config_schema_snapshot()

    proposed = default_values_yaml_from_type_snap(schema, schema.get_config_snap(job.run_config_schema.config_type.key))

    assert proposed.split() == ["ops:", "rollback_model:", "config:", "by:", "a", "person"]


def test_the_page_of_a_resource_says_what_it_was_given_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses with a password are named, not shown; a code server tells Dagster nothing else either."""
    for field in ("source_url", "platform_url", "ledger_url", "serving_token", "alert_urls"):
        monkeypatch.setenv(settings.variable(field), f"the secret of {field}")
    monkeypatch.setenv(settings.variable("mlflow_url"), "http://mlflow.example:5000")
    repository = definitions_for((model("loan_approval"),), settings.load()).get_repository_def()

    told = RepositorySnap.from_def(repository, defer_snapshots=False)
    pages = {resource.name: resource for resource in told.resources or ()}

    assert pages["source"].resource_type == "ml_platform.resources.source.SourceDatabase"
    assert "$ML_PLATFORM_SOURCE_URL" in str(pages["source"].resource_snapshot.description)
    assert "http://mlflow.example:5000" in str(pages["tracking"].resource_snapshot.description)
    assert "the secret of" not in serialize_value(told)
