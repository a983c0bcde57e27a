"""A training again, in a process of its own: the pinned copy of a model's folder stands in for the catalogue.

    python -m ml_platform.local.retrain MODEL FOLDER ROWS

`FOLDER/models/MODEL` is the copy, ROWS the Parquet file. Reads `FOLDER/golden.json`, writes `FOLDER/answers.json`.
"""

import sys
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from ml_platform import models
from ml_platform.modeling.candidate import train_again
from ml_platform.modeling.training import ModelCode
from ml_platform.models import catalogue


def main(model: str, folder: Path, rows: Path) -> None:
    """Train, and answer the golden rows."""
    models.__path__ = [str(folder / "models")]
    code = ModelCode.of(catalogue.model(model))
    golden = msgspec.json.decode((folder / "golden.json").read_bytes(), type=tuple[dict[str, Any], ...])
    answers = train_again(code, pl.read_parquet(rows), golden)
    (folder / "answers.json").write_bytes(msgspec.json.encode(answers))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
