"""Predictions: the door to what was served, as the model server logs it."""

from datetime import datetime

import dagster as dg
import msgspec
import pandas as pd
import psycopg

from ml_platform.resources.unavailable import UnavailableError

QUERY = """
select inputs::text from predictions
where model = %s and version = %s and at >= %s and at <= %s
order by at desc limit %s
"""


class PredictionStore(dg.ConfigurableResource[None]):
    """The platform's database, read only."""

    url: str

    def inputs(self, model: str, version: str, since: datetime, until: datetime, limit: int) -> pd.DataFrame:
        """The newest served rows of a version, one column per input; empty when nothing was served."""
        try:
            with psycopg.connect(self.url, connect_timeout=10) as connection:
                found = connection.execute(QUERY, (model, version, since, until, limit)).fetchall()
        except psycopg.errors.UndefinedTable:
            return pd.DataFrame()
        except psycopg.OperationalError as error:
            msg = f"the platform's database cannot be reached ({type(error).__name__}); is it running?"
            raise UnavailableError(msg) from None
        return pd.DataFrame([msgspec.json.decode(row[0]) for row in found])
