"""The command line: `ml-platform up` runs everything on this machine, the other commands talk to what runs."""

import getpass
import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from ml_platform import settings
from ml_platform.settings import Settings, SettingsError

if TYPE_CHECKING:
    import httpx

    from ml_platform.local.runs import DagsterPage

P = ParamSpec("P")
R = TypeVar("R")
PORTS = {"dagster": "Dagster's page", "mlflow": "MLflow", "serving": "the model server", "postgres": "PostgreSQL"}


def clearly(command: Callable[P, R]) -> Callable[P, R]:
    """What a user can put right is one line on stderr, not a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from ml_platform.local.processes import PlatformError  # noqa: PLC0415 - `--help` needs none of it
        from ml_platform.resources.unavailable import UnavailableError  # noqa: PLC0415 - as above

        try:
            return command(*args, **kwargs)
        except (PlatformError, SettingsError, UnavailableError) as error:
            raise click.ClickException(str(error)) from None

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--state", type=click.Path(path_type=Path), help="Where everything is kept [.ml_platform in the clone].")
@click.pass_context
def main(context: click.Context, state: Path | None) -> None:
    """One machine, the whole life of tabular models: from a PostgreSQL table to live traffic.

    Start with `ml-platform up` (or `make run`); the other commands are typed beside it, in a second terminal.
    """
    if state:
        os.environ[f"{settings.PREFIX}STATE"] = str(state.absolute())
    context.ensure_object(dict)


def _with_ports(command: Callable[..., None]) -> Callable[..., None]:
    for name, what in PORTS.items():
        option = click.option(f"--{name}-port", type=click.IntRange(1, settings.MAX_PORT), help=f"Port of {what}.")
        command = option(command)
    return command


@main.command()
@_with_ports
@clearly
def up(**ports: int | None) -> None:
    """Run the platform until Ctrl-C; the next `up` continues where it stopped."""
    from ml_platform.local import platform  # noqa: PLC0415 - only this command needs it

    here = settings.load()
    given = {name: port for name, port in ports.items() if port}
    platform.up(replace(here, **given) if given else here, click.echo)  # type: ignore[arg-type]  # ports are numbers


@main.command()
@clearly
def env() -> None:
    """Print the running platform's settings for a shell: `eval "$(.venv/bin/ml-platform env)"`."""
    for name, value in _published().items():
        if value:
            click.echo(f"export {name}={shlex.quote(value)}")


@main.command()
@click.argument("model")
@click.option("--as-of", type=click.DateTime(["%Y-%m-%d"]), help="Train on the data of a past day; never promotes.")
@click.option("--full-sync", is_flag=True, help="Pull the whole table again, and find rows deleted at the source.")
@click.option("--wait/--no-wait", default=True, help="Tell what happens until the run is over.", show_default=True)
@clearly
def refresh(model: str, as_of: date | None, *, full_sync: bool, wait: bool) -> None:
    """Take MODEL from its table to live traffic once more."""
    from ml_platform.local.runs import AS_OF, BY, FULL_SYNC  # noqa: PLC0415 - `--help` needs none of it

    if as_of and full_sync:
        msg = "--as-of takes the table as it was pulled, and pulls nothing: leave out --full-sync, or run it first"
        raise click.UsageError(msg)
    tags = {BY: getpass.getuser()} | ({AS_OF: f"{as_of:%Y-%m-%d}"} if as_of else {})
    if full_sync:
        tags[FULL_SYNC] = "yes"
    _start(model, tags, wait=wait)


@main.command()
@clearly
def status() -> None:
    """Show what is live, what is not and why, what is under way, and what is paused."""
    from ml_platform.local import status as standing  # noqa: PLC0415 - brings Dagster
    from ml_platform.local.runs import UNDER_WAY, WAITING  # noqa: PLC0415 - `--help` needs none of it

    here = _running()
    click.echo(f"Dagster {here.dagster_page}\nMLflow {here.mlflow_url}\nModel server {here.serving_url}")
    live = _ask_model_server("/models").json()["models"]
    for model in live:
        click.echo(f"{model['name']}: version {model['version']} is live ({model['colour']})")
    for run in _page().runs(statuses=[*WAITING, *UNDER_WAY]):
        click.echo(f"{', '.join(run.models) or run.job}: {run.job} {run.status.lower()}")
    for line in standing.of_catalogue(here, {model["name"] for model in live}):
        click.echo(line)


@main.command()
@click.option("--alert", is_flag=True, help="Tell those named in ML_PLATFORM_ALERT_URLS, too, what is wrong.")
@clearly
def check(*, alert: bool) -> None:
    """Look from outside whether everything ticks: daemons, sensors, schedules. For cron; the exit code is 1 if not.

    Asks the platform that runs here; where there is none, as in a pod of its own, Dagster's page at
    ML_PLATFORM_DAGSTER_PAGE.
    """
    from ml_platform.local import watchdog  # noqa: PLC0415 - `--help` needs none of it

    if not watchdog.check(settings.load(), click.echo, alert=alert):
        sys.exit(1)


@main.command()
@click.argument("statement", required=False)
@clearly
def sql(statement: str | None) -> None:
    """Run STATEMENT in the source database, or open a prompt there."""
    from urllib.parse import unquote, urlsplit  # noqa: PLC0415 - only this command needs it

    from ml_platform.local.postgres import binaries  # noqa: PLC0415 - as above

    url = urlsplit(_running().source_url)
    # The password goes through the environment: command lines are for everybody to read.
    os.environ |= {
        "PGHOST": url.hostname or "",
        "PGPORT": str(url.port or 5432),
        "PGUSER": unquote(url.username or ""),
        "PGPASSWORD": unquote(url.password or ""),
        "PGDATABASE": url.path.lstrip("/"),
    }
    command = [str(binaries() / "psql"), "--set", "ON_ERROR_STOP=1", *(["--command", statement] if statement else [])]
    os.execv(command[0], command)  # noqa: S606 - becomes psql, so that its prompt and its exit code are the user's


@main.command()
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=Path(".ml_platform_demo"),
    show_default=True,
    help="Where everything of the demo is kept; emptied first.",
)
@clearly
def demo(into: Path) -> None:
    """Watch twelve simulated weeks of a model in a few minutes: drift, retraining, broken data, and what is decided.

    It brings its own platform, ends by itself, and fails if anything did not happen as told.
    """
    from ml_platform.local import demo as story  # noqa: PLC0415 - `--help` needs none of it

    if not story.tell(into.absolute(), partial(click.echo, file=sys.stdout)):
        sys.exit(1)


@main.command("demo-rows")
@click.argument("model")
@click.option("--rows", type=click.IntRange(1), default=400, show_default=True, help="How many.")
@clearly
def demo_rows(model: str, rows: int) -> None:
    """Let new rows arrive in MODEL's table of the demo company; enough of them start a refresh by themselves."""
    from ml_platform.local import company  # noqa: PLC0415 - brings PostgreSQL's driver
    from ml_platform.resources.clock import Clock  # noqa: PLC0415 - brings Dagster

    here = _running()
    try:
        arrived = company.arrive(here.source_url, model, rows, Clock(file=here.clock).now())
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    for line in company.arrival(model, rows, arrived):
        click.echo(line)


@main.command("new-model")
@click.argument("name")
@click.option("--from", "table", required=True, metavar="TABLE", help="The table of the source database to learn from.")
@click.option("--label", metavar="COLUMN", help="What is to be predicted.")
@click.option("--key", metavar="COLUMN", help="What identifies a row for ever [the primary key].")
@click.option("--changed-at", metavar="COLUMN", help="When the row last changed [updated_at, changed_at, modified_at].")
@click.option("--event-time", metavar="COLUMN", help="When the thing itself happened: the newest rows are held out.")
@click.option("--task", type=click.Choice(["binary", "multiclass", "regression"]), help="[what the label looks like]")
@click.option("--owner", metavar="team:NAME", help="Who is called when it fails.")
@click.option("--into", type=click.Path(path_type=Path), metavar="FOLDER", help="Where to write [the catalogue].")
@clearly
def new_model(name: str, table: str, into: Path | None, task: str | None, **given: str | None) -> None:
    """Write the folder of the new model NAME, ready to run, from what a table looks like."""
    from ml_platform.modeling.spec import Task  # noqa: PLC0415 - `--help` needs none of it
    from ml_platform.scaffolding import new_model as scaffolding  # noqa: PLC0415 - as above

    here = settings.load() if settings.load().source_url else _running()
    wish = scaffolding.Wish(name=name, table=table, task=Task(task) if task else None, **given)
    try:
        for line in scaffolding.write(wish, here, into):
            click.echo(line)
    except scaffolding.ScaffoldError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("model")
@click.option("--from", "table", metavar="TABLE", help="The table or view to score [scoring.table in the spec].")
@click.option("--to", "into", metavar="TABLE", help="Where the answers go [scoring.into in the spec].")
@click.option("--key", metavar="COLUMN", help="What identifies a row of it [scoring.key, or the key of the source].")
@click.option("--anew", is_flag=True, help="Begin anew instead of continuing an interrupted scoring.")
@clearly
def score(model: str, table: str | None, into: str | None, key: str | None, *, anew: bool) -> None:
    """Let the champion of MODEL answer every row of a table, in another table of the same database.

    The answers' table, made if it is missing, has the newest answer to each row: key, label and probability (or value),
    model version and time. Rows that break the model's schema are in TABLE_rejected with the reason; TABLE_runs lists
    the scorings. Interrupted or killed, the same command continues; each row is there once. Names with a schema are
    written SCHEMA.TABLE, odd ones with double quotes.
    """
    from ml_platform.local import score as scoring  # noqa: PLC0415 - `--help` needs none of it

    here = settings.load() if settings.load().source_url else _running()
    scoring.run(scoring.Wish(model=model, table=table, into=into, key=key, anew=anew), here, click.echo)


BECAUSE = click.option("--because", required=True, metavar="TEXT", help="Why, for those who read the history later.")


@main.command()
@click.argument("model")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with evidence and links.")
@clearly
def history(model: str, limit: int, *, as_json: bool) -> None:
    """Show what was decided about MODEL, newest first: triggers, gates, promotions, rollbacks, and why."""
    from ml_platform.local import decisions  # noqa: PLC0415 - `--help` needs none of it

    decisions.history(_running(), model, limit, click.echo, as_json=as_json)


@main.command()
@click.argument("model")
@click.option("--at", metavar="TIME", help="ISO 8601, such as 2026-03-01T12:00; without a zone, UTC [now].")
@clearly
def served(model: str, at: str | None) -> None:
    """Show which version of MODEL answered at a time, and why."""
    from ml_platform.local import decisions  # noqa: PLC0415 - `--help` needs none of it

    here = _running()
    decisions.served(here, model, decisions.moment(here, at), click.echo)


@main.command()
@click.argument("model")
@click.option("--to", metavar="VERSION", help="The version to go back to [the one that answered before this].")
@BECAUSE
@clearly
def rollback(model: str, to: str | None, because: str) -> None:
    """Send traffic and champion alias of MODEL back to an earlier version, proven first; the one left is refused."""
    from ml_platform.local import decisions  # noqa: PLC0415 - `--help` needs none of it

    decisions.rollback(_running(), model, to, because, click.echo)


VERSION = click.option("--version", metavar="VERSION", help="Which version [the newest winner].")
BY_WHOM = click.option("--by", default=getpass.getuser, metavar="WHO", help="Who decides this [you].")


@main.command()
@click.argument("model")
@VERSION
@BECAUSE
@BY_WHOM
@click.option("--wait/--no-wait", default=True, help="Tell what happens until it is live.", show_default=True)
@clearly
def approve(model: str, version: str | None, because: str, by: str, *, wait: bool) -> None:
    """Release a winner of MODEL that waits for a person, and take it to live traffic; nothing is trained again."""
    from ml_platform.local import decisions  # noqa: PLC0415 - `--help` needs none of it
    from ml_platform.local.runs import BY, RELEASE_ROOMS, TRIGGER  # noqa: PLC0415 - as above

    decisions.approve(_running(), model, version, because, by, click.echo)
    _start(model, {BY: by, TRIGGER: "approval"}, RELEASE_ROOMS, wait=wait)


@main.command()
@click.argument("model")
@VERSION
@BECAUSE
@BY_WHOM
@clearly
def refuse(model: str, version: str | None, because: str, by: str) -> None:
    """Refuse a winner of MODEL for good: neither it nor the very same model is tried again."""
    from ml_platform.local import decisions  # noqa: PLC0415 - `--help` needs none of it

    decisions.refuse(_running(), model, version, because, by, click.echo)


@main.command()
@click.argument("model")
@click.argument("version")
@clearly
def reproduce(model: str, version: str) -> None:
    """Train VERSION of MODEL again from what was pinned; the exit code is 0 only if it answers as it did."""
    from ml_platform.local import reproduce as reproducing  # noqa: PLC0415 - `--help` needs none of it

    if not reproducing.run(_running(), model, version, click.echo):
        sys.exit(1)


@main.command()
@click.argument("model")
@BECAUSE
@clearly
def pause(model: str, because: str) -> None:
    """Let no schedule and no sensor refresh MODEL until it is resumed; a refresh by hand still works."""
    from ml_platform.local import decisions  # noqa: PLC0415 - `--help` needs none of it
    from ml_platform.modeling.decisions import Outcome  # noqa: PLC0415 - as above

    decisions.automation(_running(), model, Outcome.PAUSED, because, click.echo)


@main.command()
@click.argument("model")
@BECAUSE
@clearly
def resume(model: str, because: str) -> None:
    """Let schedules and sensors refresh MODEL again; closes the circuit that rejected challengers have opened, too."""
    from ml_platform.local import decisions  # noqa: PLC0415 - `--help` needs none of it
    from ml_platform.modeling.decisions import Outcome  # noqa: PLC0415 - as above

    decisions.automation(_running(), model, Outcome.RESUMED, because, click.echo)


@main.command()
@click.argument("model")
@click.argument("row", required=False)
@clearly
def predict(model: str, row: str | None) -> None:
    """Ask the live MODEL about ROW, a JSON object; without one, about an example."""
    if row is None:
        details = _ask_model_server(f"/models/{model}")
        rows = [details.json()["example"]] if details.is_success else [{}]
    else:
        rows = [_json(row)]
    answer = _ask_model_server(f"/models/{model}/predict", {"rows": rows})
    if not answer.is_success:
        raise click.ClickException(str(answer.json()["error"]))
    click.echo(json.dumps(answer.json(), indent=2))


def _start(model: str, tags: dict[str, str], rooms: tuple[str, ...] = (), *, wait: bool) -> None:
    """Queue a refresh and, if wanted, tell what happens until it is over."""
    page = _page()
    run_id = page.submit_refresh(model, tags, rooms)
    click.echo(f"{model}: queued, {_running().dagster_page}/runs/{run_id}")
    if wait:
        for event in page.follow(run_id):
            click.echo(str(event))
        if page.run(run_id).status != "SUCCESS":
            sys.exit(1)


def _ask_model_server(path: str, body: object = None) -> "httpx.Response":
    """The model server's answer; a body makes it a POST."""
    import httpx  # noqa: PLC0415 - `--help` needs none of it

    url = f"{_running().serving_url}{path}"
    try:
        return httpx.request("POST" if body else "GET", url, json=body, timeout=60, trust_env=False)
    except httpx.TransportError:
        msg = f"the model server does not answer at {url}: wait until the platform has restarted it, and try again"
        raise click.ClickException(msg) from None


def _json(text: str) -> dict[str, object]:
    try:
        row = json.loads(text)
    except ValueError as error:
        msg = f"that is not JSON ({error}): give an object such as '{{\"income\": 5}}'"
        raise click.ClickException(msg) from None
    if not isinstance(row, dict):
        msg = "give one JSON object, with a name for each value"
        raise click.ClickException(msg)
    return row


def _published() -> dict[str, str]:
    from ml_platform.local import state  # noqa: PLC0415 - `--help` needs none of it

    return state.published(settings.load().state)


def _running() -> Settings:
    """The settings of the running platform."""
    os.environ |= _published()
    return settings.load()


def _page() -> "DagsterPage":
    from ml_platform.local.runs import DagsterPage  # noqa: PLC0415 - `--help` needs none of it

    return DagsterPage(_running().dagster_page)
