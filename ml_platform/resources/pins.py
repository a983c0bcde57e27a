"""Pins: what models were trained from, each thing under its own hash, kept for as long as a model may be asked about.

Datasets cannot promise that: whoever cleans up a table deletes its old versions.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from platform import python_version

import dagster as dg
import msgspec
import polars as pl

from ml_platform.modeling.candidate import Material
from ml_platform.modeling.recipe import Recipe, installed
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.revision import code_revision


class PinError(LookupError):
    """Something pinned that is lost or was changed; the message says what, and the remedy."""


class PinStore(dg.ConfigurableResource[None]):
    """A folder of files that are named by the hash of what is in them."""

    root: str

    def keep(self, write: Callable[[Path], None]) -> str:
        """Keep what `write` writes into the file it is given, whole or not at all.

        Returns:
            Its hash, 64 hexadecimal digits.
        """
        folder = Path(self.root)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as temporary:
            file = Path(temporary) / "pin"
            write(file)
            with file.open("rb+") as written:
                digest = hashlib.file_digest(written, "sha256").hexdigest()
                os.fsync(written.fileno())
            file.replace(folder / digest)
        return digest

    def find(self, digest: str, what: str) -> Path:
        """The file of this hash.

        Raises:
            PinError: when it is lost or was changed.
        """
        file = Path(self.root) / digest
        try:
            with file.open("rb") as kept:
                found = hashlib.file_digest(kept, "sha256").hexdigest()
        except OSError as error:
            msg = f"{what} cannot be read ({error.strerror}: {file}): bring that file back from a backup"
            raise PinError(msg) from error
        if found != digest:
            msg = f"{what} was changed: {file} does not have the hash it is named by; bring it back from a backup"
            raise PinError(msg)
        return file

    def recipe(self, digest: str) -> Recipe:
        """A recipe by its hash.

        Raises:
            PinError: when it is lost or was changed.
        """
        return msgspec.json.decode(self.find(digest, "the recipe").read_bytes(), type=Recipe)


def pin_training(pins: PinStore, spec: ModelSpec, material: Material, files: Mapping[str, bytes]) -> str:
    """Keep what a model is trained from.

    Args:
        pins: where.
        spec: the model.
        material: its rows.
        files: its folder, as it was when its code was imported.

    Returns:
        The hash of its recipe.
    """
    rows = material.inputs.filter(pl.Series(material.train))
    recipe = recipe_now(spec.name, files, pins.keep(rows.write_parquet), len(rows))
    return pins.keep(lambda file: _write(file, msgspec.json.encode(recipe, order="deterministic")))


def recipe_now(model: str, files: Mapping[str, bytes], rows: str = "", rows_trained: int = 0) -> Recipe:
    """The recipe of what would be trained here and now."""
    return Recipe(
        model=model,
        rows=rows,
        rows_trained=rows_trained,
        files=files,
        revision=code_revision(),
        python=python_version(),
        packages=installed(),
    )


def _write(file: Path, data: bytes) -> None:
    file.write_bytes(data)
