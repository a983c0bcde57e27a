"""`ml-platform reproduce`: a registered version is trained again from what was pinned, and held against what it was."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ml_platform.local.processes import PlatformError
from ml_platform.modeling import bundle, source_code
from ml_platform.modeling.bundle import BundleError, Golden
from ml_platform.modeling.recipe import Comparison, Recipe, compare, differences
from ml_platform.modeling.spec import SpecError
from ml_platform.models.catalogue import model as of_catalogue
from ml_platform.resources.pins import PinError, PinStore, recipe_now
from ml_platform.resources.tracking import RECIPE, ExperimentTracking
from ml_platform.settings import Settings


def run(here: Settings, model: str, version: str, say: Callable[[str], None]) -> bool:
    """Train a version again, and tell what differs.

    Returns:
        Whether it answers the golden rows as it did.

    Raises:
        PlatformError: when it cannot be trained again; the message is one line with the remedy.
    """
    pins = PinStore(root=str(here.pins))
    try:
        recipe, golden = _kept(ExperimentTracking(url=here.require("mlflow_url")), here, pins, model, version)
        rows = pins.find(recipe.rows, f"data: the file with the {recipe.rows_trained:,} training rows")
    except (PinError, BundleError) as error:
        msg = f"{model} version {version} cannot be trained again: {error}"
        raise PlatformError(msg) from error
    say(f"{model} version {version}: {recipe.rows_trained:,} pinned training rows, code and settings as pinned")
    for difference in differences(recipe, recipe_now(model, _folder_now(model))):
        say(f"  {difference}")
    found = compare(_answers_again(recipe, rows, golden), golden.answers)
    say(_told(found))
    return found.is_equal


def _kept(
    tracking: ExperimentTracking, here: Settings, pins: PinStore, model: str, version: str
) -> tuple[Recipe, Golden]:
    """What the version was trained from, and its golden rows with the answers at the time."""
    registered = tracking.version(model, version)
    if registered is None:
        msg = f"{model}: version {version} is not registered; see {here.mlflow_url}/#/models/{model}"
        raise PlatformError(msg)
    digest = tracking.run(registered.run_id).data.tags.get(RECIPE)
    if digest is None:
        msg = "it was trained before the platform pinned what it trains from"
        raise PinError(msg)
    folder = tracking.fetch_bundle(registered.run_id, here.bundles, registered.digest)
    return pins.recipe(digest), bundle.read_golden(folder, registered.digest)


def _folder_now(model: str) -> dict[str, bytes]:
    try:
        return source_code.files(of_catalogue(model))
    except SpecError:
        # A folder that is gone or broken since does not matter: the pinned copy is what is trained.
        return {}


def _answers_again(recipe: Recipe, rows: Path, golden: Golden) -> list[dict[str, Any]]:
    """The answers of the model trained again, in a process that imports the pinned copy of its folder."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, data in recipe.files.items():
            file = folder / "models" / recipe.model / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        (folder / "golden.json").write_bytes(msgspec.json.encode(golden.rows))
        command = [sys.executable, "-m", "ml_platform.local.retrain", recipe.model, str(folder), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own interpreter
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            msg = f"{recipe.model} cannot be trained again with today's code and packages: {last}"
            raise PlatformError(msg)
        return msgspec.json.decode((folder / "answers.json").read_bytes(), type=list[dict[str, Any]])


def _told(found: Comparison) -> str:
    if found.is_equal:
        return f"equal: all {found.rows} golden rows are answered as then, at most {found.largest:.1g} apart"
    return (
        f"predictions: {found.different} of {found.rows} golden rows are answered differently, at most "
        f"{found.largest:.3g} apart; first: {found.first}"
    )
