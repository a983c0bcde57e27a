"""Ingestion side by side: ours (read, written and committed), `psql COPY` to /dev/null, and `pandas.read_sql`.

    python -m benchmarks.ingest [--rows N]

Each reader runs in a process of its own against an embedded PostgreSQL; imports are not counted. pandas reads a tenth
of the rows, and its time is multiplied by ten, since ten million rows would need about 10 GiB. Memory is the peak of
the whole process. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from ml_platform.local.postgres import EmbeddedPostgres
from ml_platform.local.processes import free_port

TABLE = """
CREATE UNLOGGED TABLE customers AS
SELECT g::int4 AS customer_id, (random() * 1000)::int4 AS visits, (random() * 1000000)::int4 AS score,
       random() AS f1, random() AS f2, random() * 100 AS f3, random() * 1000 AS f4, random() AS f5,
       'city_' || g % 1000 AS city, (ARRAY['red', 'green', 'blue'])[1 + g % 3] AS colour,
       'customer ' || md5(g::text) AS note, now() - g * interval '1 second' AS changed_at
FROM generate_series(1, %s) g
"""
PANDAS_SHARE = 10


def fill(url: str, rows: int) -> None:
    """The table exists, with 12 columns and the given number of rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLE.replace("%s", str(rows)))
        connection.execute("ALTER TABLE customers ADD PRIMARY KEY (customer_id)")
        connection.execute("VACUUM (FREEZE, ANALYZE) customers")


def ours(url: str, rows: int) -> float:
    """Seconds until the rows are committed to a dataset."""
    from ml_platform.modeling.spec import PostgresTable  # noqa: PLC0415 - each process imports what it measures
    from ml_platform.resources.datasets import DatasetStore  # noqa: PLC0415
    from ml_platform.resources.ingest import ingest  # noqa: PLC0415
    from ml_platform.resources.source import SourceDatabase  # noqa: PLC0415

    table = PostgresTable("customers", key="customer_id", changed_at="changed_at")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = ingest(SourceDatabase(url=url), DatasetStore(root=folder), table, "bench/raw", full=False)
        seconds = time.perf_counter() - began
    if done.rows_total != rows:
        msg = f"{done.rows_total} rows arrived, {rows} were sent"
        raise RuntimeError(msg)
    return seconds


def psql_copy(url: str, rows: int) -> float:  # noqa: ARG001 - psql takes the whole table
    """Seconds `psql` needs to receive the table and throw it away: the floor of any reader with one connection."""
    psql = EmbeddedPostgres(state=Path(), port=0).psql
    began = time.perf_counter()
    subprocess.run(
        [psql, "-X", "-q", "-c", "COPY customers TO STDOUT (FORMAT binary)", url], stdout=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - began


def pandas(url: str, rows: int) -> float:
    """Seconds `pandas.read_sql` would need, from a tenth of the rows."""
    import pandas as pd  # noqa: PLC0415 - each process imports what it measures
    import sqlalchemy  # noqa: PLC0415

    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    began = time.perf_counter()
    frame = pd.read_sql(f"SELECT * FROM customers WHERE customer_id <= {rows // PANDAS_SHARE}", engine)
    seconds = time.perf_counter() - began
    return seconds * rows / len(frame)


READERS = {"ours": ours, "psql_copy": psql_copy, "pandas": pandas}


def measured(reader: str, url: str, rows: int) -> dict[str, float]:
    """Seconds and peak MiB of one reader in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.ingest", "--rows", str(rows), "--reader", reader]
    answer = subprocess.run(
        command, env={**os.environ, "BENCHMARK_URL": url}, stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    said = f"{reader}: {result['seconds']} s, {result['peak_mib']:.0f} MiB"
    print(said + (" (a tenth of the rows, time multiplied)" if reader == "pandas" else ""), flush=True)
    return result


def one(reader: str, rows: int) -> None:
    """Run one reader here and print its seconds and peak MiB."""
    seconds = READERS[reader](os.environ["BENCHMARK_URL"], rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(seconds, 2), "peak_mib": round(peak)}))


def compare(rows: int) -> None:
    """Start a server, fill it, run every reader, print the comparison."""
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
        server = EmbeddedPostgres(state=Path(folder), port=free_port())
        server.start()
        try:
            server.create_databases(["company"])
            url = server.url("company")
            print(f"filling {rows:,} rows x 12 columns", flush=True)
            fill(url, rows)
            results = {reader: measured(reader, url, rows) for reader in ("psql_copy", "ours", "pandas")}
        finally:
            server.stop()
    print(
        json.dumps(
            {
                "seconds": {reader: results[reader]["seconds"] for reader in READERS},
                "peak_mib": {reader: results[reader]["peak_mib"] for reader in ("ours", "pandas")},
            }
        )
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--reader", choices=tuple(READERS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.reader:
        one(given.reader, given.rows)
    else:
        compare(given.rows)


if __name__ == "__main__":
    main()
