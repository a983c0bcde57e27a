"""A new model: its folder is made from a table, tried on the table's rows, and placed whole or not at all."""

import importlib
import keyword
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import polars as pl

from ml_platform import models
from ml_platform.modeling import splitting
from ml_platform.modeling.gate import MIN_ROWS
from ml_platform.modeling.spec import NAME, RESERVED, ModelSpec
from ml_platform.modeling.training import ModelCode, known
from ml_platform.modeling.validation import as_columns, validate
from ml_platform.resources.clock import Clock
from ml_platform.scaffolding.files import files_of
from ml_platform.scaffolding.plan import Plan, Role, Wish, make_plan
from ml_platform.scaffolding.source_table import ScaffoldError, read_table
from ml_platform.settings import Settings

__all__ = ["ScaffoldError", "Wish", "write"]


def write(wish: Wish, here: Settings, into: Path | None = None) -> Iterator[str]:
    """The catalogue, or the folder `into`, has a new model, ready to run; what was decided is told in plain lines.

    Raises:
        ScaffoldError: when the name, the table or an option does not allow it; nothing was written.
    """
    catalogue = (into or Path(here.models or models.__path__[0])).absolute()
    _check_wish(wish, catalogue)
    table = read_table(here.require("source_url"), wish.table, wish.key)
    plan = make_plan(table, wish, Clock(file=here.clock).now())
    folder = _place(plan, catalogue)
    yield from _told(plan, folder)
    if str(catalogue) not in {here.models, *models.__path__}:
        yield f"The platform looks there when it is started with ML_PLATFORM_MODELS={catalogue}"
    elif _reloaded(here.dagster_page):
        yield f"Dagster shows it now. Next: look for THINK in the folder, then `ml-platform refresh {plan.name}`."
    else:
        yield "The platform shows it from its next start. Next: look for THINK in the folder."


def _place(plan: Plan, catalogue: Path) -> Path:
    """The folder is in the catalogue, complete and tried."""
    folder = catalogue / plan.name
    try:
        catalogue.mkdir(parents=True, exist_ok=True)
        with _workshop(catalogue) as workshop:
            draft = workshop / plan.name
            draft.mkdir()
            for name, text in files_of(plan).items():
                (draft / name).write_text(text, encoding="utf-8")
            _try_out(draft, plan)
            shutil.rmtree(draft / "__pycache__", ignore_errors=True)
            draft.rename(_free(plan.name, catalogue))
    except OSError as error:
        msg = f"cannot write {folder} ({error.strerror}): choose another folder with --into FOLDER"
        raise ScaffoldError(msg) from None
    return folder


def _check_wish(wish: Wish, catalogue: Path) -> None:
    name = wish.name
    if not NAME.fullmatch(name) or name in RESERVED or keyword.iskeyword(name):
        msg = f"{name!r} cannot be a model's name: use lower-case letters, digits and underscores, first a letter"
        raise ScaffoldError(msg)
    if wish.owner and not (wish.owner.startswith("team:") or "@" in wish.owner):
        msg = f"--owner {wish.owner}: write team:NAME or an e-mail address"
        raise ScaffoldError(msg)
    _free(name, catalogue)


def _free(name: str, catalogue: Path) -> Path:
    """Where the folder goes: a name that nothing in any catalogue has."""
    for place in (*map(Path, models.__path__), catalogue):
        if (place / name).exists() or (place / f"{name}.py").exists():
            msg = f"the name {name!r} is taken, by {place / name}: choose another, or remove that first"
            raise ScaffoldError(msg)
    return catalogue / name


@contextmanager
def _workshop(catalogue: Path) -> Iterator[Path]:
    """A folder that nobody takes for a model: the catalogue looks one level deep, and the draft lies two deep."""
    workshop = Path(tempfile.mkdtemp(prefix="unfinished_", dir=catalogue))
    try:
        yield workshop
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _try_out(draft: Path, plan: Plan) -> None:
    """The draft is accepted as a model, and takes the sampled rows through to features and a split.

    Raises:
        ScaffoldError: when it does not.
    """
    package = f"{draft.parent.name}.{draft.name}"
    with _importable(draft.parent):
        spec: ModelSpec = replace(importlib.import_module(f"{package}.spec").MODEL, package=package)
        code = ModelCode.of(spec)
        checked = validate(plan.table.sample, code.schema)
        code.features.compute(as_columns(checked.good, code.inputs))
        labels = code.label(checked.good)
    if len(checked.bad):
        msg = f"the schema for {plan.table.name} refuses its own row {checked.failures.row(0)}: please report this"
        raise ScaffoldError(msg)
    if plan.event_time:
        _check_split(spec, checked.good, known(labels), plan)


def _check_split(spec: ModelSpec, rows: pl.DataFrame, labelled: np.typing.NDArray[np.bool_], plan: Plan) -> None:
    """A split by time leaves rows to judge, which it does not when most rows share one moment."""
    split = splitting.choose(spec, rows)
    judged = int((splitting.held_out(rows, [split]) & labelled).sum() * plan.table.rows / len(rows))
    expected = len(rows) * spec.promotion.holdout / 2
    if judged < min(MIN_ROWS, expected):
        msg = (
            f"--event-time {plan.event_time}: only {judged} labelled rows are among the newest "
            f"{spec.promotion.holdout:.0%}, too few to judge a model on; leave the option out, or wait for newer labels"
        )
        raise ScaffoldError(msg)


@contextmanager
def _importable(workshop: Path) -> Iterator[None]:
    """The drafts in the workshop can be imported, below its own name, and leave nothing behind."""
    sys.path.insert(0, str(workshop.parent))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(workshop.parent))
        for name in [n for n in sys.modules if n.partition(".")[0] == workshop.name]:
            del sys.modules[name]


def _told(plan: Plan, folder: Path) -> Iterator[str]:
    """What was made and guessed, in plain lines."""
    names = {role: ", ".join(c.name for c in plan.of(role)) or "none" for role in Role}
    yield f"Wrote {folder}"
    yield f"  table     {plan.table.name}: {plan.table.rows} rows, key {plan.key}"
    yield f"  label     {plan.label}: {plan.task}"
    yield f"  times     changed at {plan.changed_at or '(no column)'}, event time {plan.event_time or '(not given)'}"
    yield f"  inputs    {names[Role.INPUT]}"
    yield f"  slices    {names[Role.SLICE]}"
    for column in plan.of(Role.LEFT_OUT):
        yield f"  left out  {column.name}: {column.why}"
    for note in plan.notes:
        yield f"  note      {note}"


def _reloaded(page: str) -> bool:
    """Whether a running Dagster has loaded the definitions again."""
    if not page:
        return False
    query = {"query": 'mutation { reloadRepositoryLocation(repositoryLocationName: "ml_platform") { __typename } }'}
    try:
        answer = httpx.post(f"{page}/graphql", json=query, timeout=120, trust_env=False)
    except httpx.HTTPError:
        return False
    return "WorkspaceLocationEntry" in answer.text
