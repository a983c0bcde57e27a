"""Runs, seen through Dagster's page: submitted, followed in plain words, and ended; no Dagster import needed."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from ml_platform.local.processes import PlatformError

LOCATION = {"repositoryLocationName": "ml_platform", "repositoryName": "__repository__"}
REFRESH = "refresh"
AS_OF, FULL_SYNC = "ml_platform/as_of", "ml_platform/full_sync"
RELEASE_ROOMS = ("trained_model", "evaluation", "registered_model", "image", "deployment")
"""The rooms that take a registered winner to live traffic."""
ROOMS = ("raw_data", "validated_data", "features", *RELEASE_ROOMS, "drift_report", "realised_performance", "scores")
"""Every room that a run can make."""
EVALUATION, WON = "evaluation", "promote"
MODEL, TRIGGER, BY = "ml_platform/model", "ml_platform/trigger", "ml_platform/by"
WAITING = ("QUEUED",)
UNDER_WAY = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")
OVER = {"SUCCESS": "done", "FAILURE": "failed", "CANCELED": "cancelled"}
POLL_SECONDS = 0.5
EVENTS_AT_ONCE = 500

ASSETS = "query($job: PipelineSelector!) { assetNodes(pipeline: $job) { assetKey { path } } }"
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on Error { message } } }"""
RUNS = """query($filter: RunsFilter!) { runsOrError(filter: $filter, limit: 100) {
  __typename ... on Runs { results { runId jobName status assetSelection { path } } } ... on Error { message } } }"""
EVENTS = """query($run: ID!, $after: String, $limit: Int) {
  runOrError(runId: $run) { ... on Run { status } }
  logsForRun(runId: $run, afterCursor: $after, limit: $limit) {
    __typename ... on Error { message }
    ... on EventConnection { cursor hasMore events {
      __typename
      ... on MessageEvent { stepKey timestamp message }
      ... on MaterializationEvent { assetKey { path } metadataEntries { ...said } }
      ... on ExecutionStepFailureEvent { error { message causes { message } } }
      ... on AssetCheckEvaluationEvent { evaluation { checkName success severity description assetKey { path }
        metadataEntries { ...said } } }
      ... on RunFailureEvent { error { message causes { message } } } } } } }
fragment said on MetadataEntry { label ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }
  ... on TextMetadataEntry { text } }"""
TERMINATE = (
    """mutation($ids: [String!]!) { terminateRuns(runIds: $ids, terminatePolicy: SAFE_TERMINATE) { __typename } }"""
)
LOADED = """{ workspaceOrError { __typename ... on Workspace { locationEntries { name loadStatus
  locationOrLoadError { __typename ... on PythonError { message causes { message } } } } } } }"""


@dataclass(frozen=True, kw_only=True)
class RoomEvent:
    """Something worth telling about one room, or about the whole run when `room` is empty."""

    model: str
    room: str
    state: str
    seconds: float = 0.0
    rows: int | None = None
    note: str = ""

    def __str__(self) -> str:
        """One line in plain words."""
        size = "" if self.rows is None else f", {self.rows:,} rows"
        took = f" ({self.seconds:.1f} s{size})" if self.seconds else ""
        note = f": {self.note}" if self.note else ""
        return (
            f"{self.model}: {self.room} {self.state}{took}{note}"
            if self.room
            else f"{self.model}: {self.state}{took}{note}"
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as Dagster's page lists it."""

    id: str
    job: str
    status: str
    models: tuple[str, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in OVER


@dataclass
class Story:
    """What has been read of a run so far; `obstacles` are what kept each model from going live, in words."""

    run: Run
    cursor: str | None = None
    begun: dict[str, float] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    barred: set[str] = field(default_factory=set)
    obstacles: dict[str, str] = field(default_factory=dict)
    started: float = 0.0
    over: bool = False

    def tell(self, event: Mapping[str, Any]) -> Iterator[RoomEvent]:
        """What an event of the log means to a person; most mean nothing."""
        kind, step, at = event["__typename"], event.get("stepKey") or "", float(event.get("timestamp") or 0) / 1000
        self.started = self.started or at
        match kind:
            case "ExecutionStepStartEvent":
                self.begun[step] = at
            case "MaterializationEvent":
                self.made.add(step)
                yield self._of_product(event, at - self.begun.get(step, at))
            case "ExecutionStepSuccessEvent" if step not in self.made and _is_room(step):
                yield self._of_step(step, "has nothing to do", at)
            # A check that bars the way has said more than the failure that Dagster makes of it.
            case "ExecutionStepFailureEvent" if step not in self.barred:
                failure = self._of_step(step, "FAILED", at, _cause(event["error"]))
                self._remember(failure)
                yield failure
            case "AssetCheckEvaluationEvent" if not event["evaluation"]["success"]:
                yield self._of_check(event["evaluation"], step)
            case "RunSuccessEvent" | "RunFailureEvent" | "RunCanceledEvent":
                self.over = True
                yield self._of_run(kind, event, at)

    def _of_product(self, event: Mapping[str, Any], seconds: float) -> RoomEvent:
        model, room = _model_and_room(event["assetKey"]["path"])
        said = _said(event["metadataEntries"])
        rows, note = said.get("dagster/row_count"), ""
        if room == EVALUATION and "reason" in said:
            won = said.get("decision") == WON
            note = f"{'won' if won else 'not promoted'}: {said['reason']}"
            if not won:
                self.obstacles[model] = note
        elif "waits_for" in said:
            note = self.obstacles[model] = f"waits for {said['waits_for']}"
        return RoomEvent(model=model, room=room, state="ok", seconds=seconds, rows=rows, note=note)

    def _of_check(self, evaluation: Mapping[str, Any], step: str) -> RoomEvent:
        model, room = _model_and_room(evaluation["assetKey"]["path"])
        bars = evaluation["severity"] == "ERROR"
        found = ", ".join(filter(None, [evaluation["description"], *_in_words(evaluation["metadataEntries"])]))
        note = f"{evaluation['checkName']} ({found})" if found else evaluation["checkName"]
        event = RoomEvent(model=model, room=room, state="did not pass" if bars else "warns", note=note)
        if bars:
            self.barred.add(step)
            self._remember(event)
        return event

    def _remember(self, obstacle: RoomEvent) -> None:
        """The first thing that went wrong is what counts."""
        why = f"{obstacle.room} {obstacle.state}: {obstacle.note}".strip()
        self.obstacles.setdefault(obstacle.model, why)

    def _of_step(self, step: str, state: str, at: float, note: str = "") -> RoomEvent:
        model, room = _model_and_room(step.rsplit("__", 1))
        return RoomEvent(model=model, room=room, state=state, seconds=at - self.begun.get(step, at), note=note)

    def _of_run(self, kind: str, event: Mapping[str, Any], at: float) -> RoomEvent:
        state = {"RunSuccessEvent": "done", "RunFailureEvent": "FAILED"}.get(kind, "cancelled")
        note = event["message"].splitlines()[0] if kind == "RunFailureEvent" else ""
        name = ", ".join(self.run.models) or self.run.job
        if state != "done":
            why = f"its {self.run.job} {'was cancelled' if state == 'cancelled' else 'failed'}"
            self.obstacles = dict.fromkeys(self.run.models, why) | self.obstacles
        return RoomEvent(model=name, room="", state=f"{self.run.job} {state}", seconds=at - self.started, note=note)


@dataclass(frozen=True)
class DagsterPage:
    """Dagster's webserver, asked through its GraphQL interface."""

    url: str

    def submit_refresh(self, model: str, tags: Mapping[str, str], rooms: Sequence[str] = ()) -> str:
        """A run that refreshes the model is queued, in all its rooms or in these; its id.

        Raises:
            PlatformError: when Dagster does not take it.
        """
        paths = self.refreshable()
        keys = [path for path in paths if path[0] == model and (not rooms or path[1] in rooms)]
        if not keys:
            known = ", ".join(sorted({path[0] for path in paths}))
            msg = f"there is no model {model!r}; there are: {known or 'none yet'}"
            raise PlatformError(msg)
        selector = LOCATION | {"jobName": REFRESH, "assetSelection": [{"path": path} for path in keys]}
        metadata = {"tags": [{"key": key, "value": value} for key, value in {MODEL: model, **tags}.items()]}
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": metadata}
        answer = self.ask(LAUNCH, params=params)["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            msg = f"Dagster did not take the run: {answer.get('message') or answer['__typename']}"
            raise PlatformError(msg)
        return str(answer["run"]["runId"])

    def follow(self, run_id: str) -> Iterator[RoomEvent]:
        """What happens in the run, as it happens, until it is over."""
        story = Story(self.run(run_id))
        while not story.over:
            events = list(self.news(story))
            yield from events
            if not events:
                time.sleep(POLL_SECONDS)

    def news(self, story: Story) -> Iterator[RoomEvent]:
        """What has happened since the story was last continued."""
        more = True
        while more:
            answer = self.ask(EVENTS, run=story.run.id, after=story.cursor, limit=EVENTS_AT_ONCE)
            log = answer["logsForRun"]
            if log["__typename"] != "EventConnection":
                story.over = True
                return
            story.cursor, more = log["cursor"], log["hasMore"]
            for event in log["events"]:
                yield from story.tell(event)
            if not log["events"] and answer["runOrError"].get("status") in OVER:
                story.over = True

    def run(self, run_id: str) -> Run:
        """One run.

        Raises:
            PlatformError: when there is none of that id.
        """
        for run in self.runs(runIds=[run_id]):
            return run
        msg = f"there is no run {run_id}"
        raise PlatformError(msg)

    def runs(self, **only: object) -> list[Run]:
        """The newest runs that fit Dagster's filter."""
        answer = self.ask(RUNS, filter=only)["runsOrError"]
        return [
            Run(
                id=run["runId"],
                job=run["jobName"],
                status=run["status"],
                models=tuple(dict.fromkeys(key["path"][0] for key in run["assetSelection"] or [])),
            )
            for run in answer.get("results", [])
        ]

    def terminate(self, run_ids: Sequence[str]) -> None:
        """The runs have been asked to end; they become CANCELED."""
        if run_ids:
            self.ask(TERMINATE, ids=list(run_ids))

    def load_error(self) -> str | None:
        """Why the definitions could not be loaded; empty when they were, None while they still are.

        Raises:
            PlatformError: when the page does not answer.
        """
        workspace = self.ask(LOADED)["workspaceOrError"]
        entries = workspace.get("locationEntries", [])
        if not entries or any(entry["loadStatus"] != "LOADED" for entry in entries):
            return None
        outcomes = [entry["locationOrLoadError"] for entry in entries]
        return "; ".join(_cause(outcome) for outcome in outcomes if outcome and outcome["__typename"] == "PythonError")

    def refreshable(self) -> list[list[str]]:
        """The keys of all assets that a refresh makes."""
        nodes = self.ask(ASSETS, job=LOCATION | {"pipelineName": REFRESH})["assetNodes"]
        return [list(node["assetKey"]["path"]) for node in nodes]

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        """The answer to a GraphQL question.

        Raises:
            PlatformError: when the page does not answer, or does not understand.
        """
        body = {"query": query, "variables": variables}
        try:
            answer = httpx.post(f"{self.url}/graphql", json=body, timeout=60, trust_env=False).json()
        except (httpx.HTTPError, ValueError) as error:
            msg = f"Dagster's page at {self.url} does not answer ({type(error).__name__}): is the platform running?"
            raise PlatformError(msg) from error
        if answer.get("errors"):
            msg = f"Dagster's page refused a question: {answer['errors'][0]['message']}"
            raise PlatformError(msg)
        data: dict[str, Any] = answer["data"]
        return data


def _model_and_room(path: Sequence[str]) -> tuple[str, str]:
    return path[0], "/".join(path[1:])


def _is_room(step: str) -> bool:
    """Whether the step makes the product of a room; jobs have others, such as that of `pause`."""
    model, _, room = step.rpartition("__")
    return bool(model) and room in ROOMS


def _said(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The numbers and texts among metadata, by label."""
    values = {entry["label"]: [v for name, v in entry.items() if name != "label"] for entry in entries}
    return {label: value[0] for label, value in values.items() if value and value[0] is not None}


def _in_words(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What metadata say, each number or text with its name."""
    for label, value in _said(entries).items():
        name = label.replace("_", " ")
        match value:
            case int():
                yield f"{name} {value:,}"
            case float():
                yield f"{name} {value:.4g}"
            case _:
                yield str(value) if label == "reason" else f"{name}: {value}"


def _cause(error: Mapping[str, Any] | None) -> str:
    """The first line of what went wrong at the bottom: Dagster wraps the error that matters."""
    if not error:
        return ""
    causes = error.get("causes") or []
    lines = str((causes[-1] if causes else error)["message"]).strip().splitlines()
    return lines[0] if lines else ""
