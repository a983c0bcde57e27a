"""A table scored side by side: `ml-platform score`'s code, and pandas with an MLflow pyfunc model, table to table.

    python -m benchmarks.score [--rows N] [--model NAME] [--rounds N]

The table has the key and the inputs of student_dropout (or of loan_approval, four times as many), random rows made from
the schema, of which one in a thousand breaks it. Both answer it with the same pipeline, trained on the demo company's
rows, and write key, label, probability, model version and time to a table of the same embedded PostgreSQL.

Ours is what the command and the asset run: rows are held to the schema, features computed by the model's functions, the
bundle's engine asked, answers and progress committed chunk by chunk. The other is what people write: `pandas.read_sql`,
the same features in pandas, `mlflow.pyfunc` with a model saved by `mlflow.sklearn`, `DataFrame.to_sql`; no schema, no
key, no resumption. It does a tenth of the rows, since more take minutes and its speed does not depend on it. Each runs
in a process of its own; imports and loading the model are not counted. Who goes first alternates, the medians count.
Where both have an answer, it must be the same. The last line is one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from ml_platform.local import company
from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ml_platform.modeling.schema import Field

SHARE_OF_PANDAS = 10
BAD = 0.001
MISSING = 0.05
SPOILED = {"loan_approval": "hrat", "student_dropout": "motheduc"}
PROPERTIES = {1: "condominium", 2: "one family", 3: "two to four families"}
TOLERANCE = 2e-5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What every part of the benchmark must know."""

    url: str
    folder: Path
    model: str
    rows: int

    @property
    def key(self) -> str:
        """The key of the model's table, and of the one that is scored."""
        from ml_platform.models.catalogue import model  # noqa: PLC0415 - each process imports what it needs

        return model(self.model).source.key


def train(here: Setting) -> None:
    """A model of the demo company's rows: as a bundle, and as scikit-learn's pipeline saved by MLflow."""
    import mlflow  # noqa: PLC0415 - each process imports what it needs
    import polars as pl  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    from ml_platform.modeling import candidate  # noqa: PLC0415
    from ml_platform.modeling.training import ModelCode  # noqa: PLC0415
    from ml_platform.modeling.validation import as_columns, validate  # noqa: PLC0415
    from ml_platform.models.catalogue import model  # noqa: PLC0415
    from ml_platform.resources.source import SourceDatabase  # noqa: PLC0415

    code = ModelCode.of(model(here.model))
    company.load(here.url, datetime.now(UTC))
    with SourceDatabase(url=here.url).pull(code.spec.source, None) as pull:
        rows = pl.DataFrame(pa.Table.from_batches(list(pull.everything())))
    good = validate(rows, code.schema).good
    features, label = code.features.compute(as_columns(good, code.inputs)), code.label(good)
    table = candidate.features_table(code, good, features, label)
    made = candidate.train(code, candidate.prepare(code, table, good), here.folder)
    (here.folder / "digest").write_text(made.packed.predictor.digest)
    mlflow.sklearn.save_model(
        made.pipeline, here.folder / "mlflow", pyfunc_predict_fn="predict_proba", serialization_format="cloudpickle"
    )
    fill(here, code.inputs)


def fill(here: Setting, fields: tuple["Field", ...]) -> None:
    """The table `incoming` exists, with the key, the fields, and random rows."""
    import numpy as np  # noqa: PLC0415
    import polars as pl  # noqa: PLC0415

    rng, count, spoiled = np.random.default_rng(1), here.rows, SPOILED[here.model]
    rows = pl.DataFrame(
        {here.key: np.arange(1, count + 1)} | {f.name: _values(f, count, rng) for f in fields}, nan_to_null=True
    ).with_columns(pl.col(f.name).cast(pl.Int64) for f in fields if _is_whole(f))
    bad = pl.Series(rng.random(count) < BAD)
    rows = rows.with_columns(pl.when(bad).then(-1).otherwise(pl.col(spoiled)).alias(spoiled))
    types = ", ".join(f'"{f.name}" {"bigint" if _is_whole(f) else "double precision"}' for f in fields)
    with psycopg.connect(here.url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE incoming ({here.key} bigint PRIMARY KEY, {types})".encode())
        with connection.cursor() as cursor, cursor.copy("COPY incoming FROM STDIN (FORMAT csv)") as copy:
            for part in rows.iter_slices(100_000):
                copy.write(part.write_csv(include_header=False))
        connection.execute("VACUUM (FREEZE, ANALYZE) incoming")


def _is_whole(field: "Field") -> bool:
    return field.dtype.startswith("int")


def _values(field: "Field", count: int, rng: Any) -> "NDArray[Any]":
    """Random numbers that keep the field's rules; some are missing where that is allowed."""
    rules = {rule.name: rule.value for rule in field.rules}
    if "isin" in rules:
        values = rng.choice(rules["isin"], count).astype(float)
    else:
        low, high = rules.get("greater_than_or_equal_to", 1), rules.get("less_than_or_equal_to", 10_000)
        values = rng.integers(low, high, count).astype(float) if _is_whole(field) else rng.uniform(low, high, count)
    if field.nullable:
        values[rng.random(count) < MISSING] = float("nan")
    return values  # type: ignore[no-any-return]


def ours(here: Setting) -> float:
    """Rows per second, into the table `answers`."""
    from ml_platform.modeling import bundle  # noqa: PLC0415
    from ml_platform.resources import scoring  # noqa: PLC0415
    from ml_platform.resources.clock import Clock  # noqa: PLC0415
    from ml_platform.resources.source import SourceDatabase  # noqa: PLC0415

    digest = (here.folder / "digest").read_text()
    champion = scoring.Champion(model=here.model, version=1, predictor=bundle.load(here.folder / digest, digest))
    order = scoring.Order(table="incoming", key=here.key, into="answers", continue_within=timedelta(0))
    began = time.perf_counter()
    done = scoring.score(SourceDatabase(url=here.url), champion, order, Clock(), lambda _: None)
    seconds = time.perf_counter() - began
    if done.rows != here.rows or not 0 < done.rows_rejected < 2 * BAD * here.rows:
        msg = f"{done.rows} rows were done, of which {done.rows_rejected} were rejected; there are {here.rows}"
        raise RuntimeError(msg)
    return done.rows / seconds


def pandas_mlflow(here: Setting) -> float:
    """Rows per second of a tenth of the rows, into the table `pandas_answers`."""
    import mlflow  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415
    import sqlalchemy  # noqa: PLC0415

    model = mlflow.pyfunc.load_model(str(here.folder / "mlflow"))
    engine = sqlalchemy.create_engine(here.url.replace("postgresql://", "postgresql+psycopg://"))
    began = time.perf_counter()
    frame = pd.read_sql(f"SELECT * FROM incoming WHERE {here.key} <= {here.rows // SHARE_OF_PANDAS}", engine)
    probability = model.predict(FEATURES[here.model](frame))[:, 1]
    answers = pd.DataFrame(
        {
            here.key: frame[here.key],
            "label": (probability >= 0.5).astype(int),
            "probability": probability,
            "model_version": 1,
            "scored_at": pd.Timestamp.now("UTC"),
        }
    )
    answers.to_sql("pandas_answers", engine, if_exists="append", index=False)
    return len(frame) / (time.perf_counter() - began)


def loan_features(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The features of loan_approval, as one writes them in pandas; in single precision, as they were learned from."""
    words = "loanamt hrat obrat netw rep mortg cons pubrec unem self dep unit fixadj gift cosign"
    features = rows[words.split(" ")].copy()
    features["loan_to_price"] = rows["loanamt"] / rows["price"]
    features["income"] = rows["atotinc"] + rows["cototinc"]
    features["expense_share"] = ((rows["hexp"] + rows["other"]) / features["income"]).where(features["income"] > 0)
    features["liquid_assets"] = rows["liq"].where(rows["liq"] < 1_000_000)
    features["credit_lines"] = rows["lines"].where(rows["lines"] <= 999_999)
    features["term_months"] = rows["term"].where(rows["term"] <= 999_999)
    features["reviews"] = rows["review"].where(~rows["review"].isin([666, 999]))
    features = features.astype("float32").astype("float64")
    features["property_type"] = rows["prop"].map(PROPERTIES)
    return features


def student_features(rows: "pd.DataFrame") -> "pd.DataFrame":
    """The same of student_dropout."""
    import numpy as np  # noqa: PLC0415

    features = rows[["motheduc", "fatheduc", "lfaminc", "cathhs", "parcath"]].copy()
    features["parents_education"] = (rows["motheduc"] + rows["fatheduc"]) / 2
    features["less_educated_parent"] = rows[["motheduc", "fatheduc"]].min(axis=1, skipna=False)
    features["low_income"] = (rows["lfaminc"] < np.log(20_000)).astype(float).where(rows["lfaminc"].notna())
    return features.astype("float32").astype("float64")


FEATURES = {"loan_approval": loan_features, "student_dropout": student_features}
WAYS: dict[str, Callable[[Setting], float]] = {"ours": ours, "pandas_mlflow": pandas_mlflow}


def refuse_disagreement(here: Setting) -> None:
    """Both gave the same answers to the rows that both scored.

    Raises:
        RuntimeError: otherwise.
    """
    query = f"""
        SELECT count(*), max(abs(a.probability - p.probability)),
               count(*) FILTER (WHERE a.label <> p.label AND abs(a.probability - 0.5) > %s)
        FROM answers a JOIN pandas_answers p USING ({here.key})
    """
    with psycopg.connect(here.url) as connection:
        ((both, apart, other_labels),) = connection.execute(query.encode(), (TOLERANCE,)).fetchall()
    if both < here.rows // SHARE_OF_PANDAS * (1 - 2 * BAD) or apart > TOLERANCE or other_labels:
        msg = f"{both} rows were scored by both, at most {apart} apart, with {other_labels} other labels"
        raise RuntimeError(msg)
    print(f"{both:,} rows were scored by both: the same labels, probabilities at most {apart:.1e} apart", flush=True)


def in_a_process(part: str, here: Setting) -> float:
    """What one part prints at the end of a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.score", "--rows", str(here.rows)]
    command += ["--model", here.model, "--part", part]
    environment = os.environ | {
        "BENCHMARK_URL": here.url,
        "BENCHMARK_FOLDER": str(here.folder),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def compare(model: str, rows: int, rounds: int) -> None:
    """Start a server, train, fill the table, score it both ways, print the comparison."""
    with tempfile.TemporaryDirectory(prefix="bench-score-") as name:
        folder = Path(name)
        server = EmbeddedPostgres(state=folder / "server", port=free_port())
        server.start()
        try:
            server.create_databases(["company"])
            here = Setting(url=server.url("company"), folder=folder / "models", model=model, rows=rows)
            print(f"training {model}, and filling {rows:,} rows", flush=True)
            in_a_process("train", here)
            speeds: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(rounds):
                with psycopg.connect(here.url) as connection:
                    connection.execute("DROP TABLE IF EXISTS answers, answers_rejected, answers_runs, pandas_answers")
                for way in sorted(WAYS, reverse=bool(number % 2)):
                    speeds[way].append(in_a_process(way, here))
                    share = "" if way == "ours" else " (a tenth of the rows)"
                    print(f"{way}: {speeds[way][-1]:,.0f} rows/s{share}", flush=True)
                refuse_disagreement(here)
        finally:
            server.stop()
    print(json.dumps({"rows_per_s": {way: round(statistics.median(found)) for way, found in speeds.items()}}))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", choices=tuple(FEATURES), default="student_dropout")
    parser.add_argument("--part", choices=("train", *WAYS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part is None:
        compare(given.model, given.rows, given.rounds)
        return
    folder = Path(os.environ["BENCHMARK_FOLDER"])
    here = Setting(url=os.environ["BENCHMARK_URL"], folder=folder, model=given.model, rows=given.rows)
    if given.part == "train":
        train(here)
    print(WAYS[given.part](here) if given.part in WAYS else 0)


if __name__ == "__main__":
    main()
