"""scikit-learn's bundled data as tables of a source database."""

from typing import Any

import psycopg
from psycopg import sql
from sklearn.datasets import load_diabetes, load_wine

TYPES = {"i": "bigint", "f": "double precision", "O": "text"}


def load_wines(url: str) -> None:
    """178 wines from three cultivars of one region; a column is called `od280/od315_of_diluted_wines`."""
    wine = load_wine(as_frame=True)
    cultivar = [("barolo", "grignolino", "barbera")[target] for target in wine.target]
    load(url, "wines", "wine_id", wine.data.assign(cultivar=cultivar))


def load_patients(url: str) -> None:
    """442 patients, and how far their diabetes had progressed a year later."""
    diabetes = load_diabetes(as_frame=True, scaled=False)
    load(url, "patients", "patient_id", diabetes.data.assign(progression=diabetes.target))


def load(url: str, table: str, key: str, frame: Any) -> None:
    """A pandas frame is a table with a key and the time of change."""
    names = [sql.Identifier(name) for name in frame.columns]
    types = [sql.SQL(TYPES[dtype.kind]) for dtype in frame.dtypes]
    typed = [sql.SQL("{} {} NOT NULL").format(*pair) for pair in zip(names, types, strict=True)]
    columns = sql.SQL(", ").join(names)
    with psycopg.connect(url) as connection:
        connection.execute(
            sql.SQL(
                "CREATE TABLE {} ({} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {}, "
                "updated_at timestamptz NOT NULL DEFAULT now())"
            ).format(sql.Identifier(table), sql.Identifier(key), sql.SQL(", ").join(typed))
        )
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), columns)
        with connection.cursor() as cursor, cursor.copy(copy) as rows:
            for row in frame.itertuples(index=False):
                rows.write_row(row)
