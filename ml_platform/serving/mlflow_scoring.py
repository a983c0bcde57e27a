"""MLflow's scoring protocol: what `mlflow models serve` takes and answers, without MLflow."""

from collections import Counter
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from ml_platform.serving.http import Refusal
from ml_platform.serving.lane import Answer, Lane
from ml_platform.serving.protocols import Asked, as_json, as_rows, check_count, decode_pythons

FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs")
Rows = list[dict[str, Any]]


class Split(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A data frame, as pandas' `to_dict(orient="split")` has it."""

    columns: list[str]
    data: list[list[Any]]
    index: list[Any] = []

    def rows(self) -> Rows:
        """One mapping per row.

        Raises:
            Refusal: when names and values do not go together.
        """
        twice = [name for name, times in Counter(self.columns).items() if times > 1]
        if twice:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"dataframe_split has column {twice[0]!r} twice")
        for i, row in enumerate(self.data):
            if len(row) != len(self.columns):
                msg = f"dataframe_split, row {i}: {len(row)} values for {len(self.columns)} columns"
                raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, msg)
        return [dict(zip(self.columns, row, strict=True)) for row in self.data]


class Params(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What goes with the rows: whose they are, for the prediction log."""

    keys: list[str | None] | None = None


class Invocation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of an invocation, which has one of the four forms."""

    dataframe_records: Rows | UnsetType = UNSET
    dataframe_split: Split | UnsetType = UNSET
    instances: Rows | UnsetType = UNSET
    inputs: Rows | dict[str, list[Any]] | UnsetType = UNSET
    params: Params = msgspec.field(default_factory=Params)

    def rows(self) -> Rows:
        """One mapping per row.

        Raises:
            Refusal: when there is not exactly one form, or its parts do not go together.
        """
        given = [name for name in FORMS if getattr(self, name) is not UNSET]
        if len(given) != 1:
            msg = f"give exactly one of {', '.join(FORMS)}, not {' and '.join(given) or 'none'}"
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, msg)
        found = getattr(self, given[0])
        if isinstance(found, Split):
            return found.rows()
        return as_rows(found) if isinstance(found, dict) else found


class MLflowScoring:
    """Rows of a pandas frame, by name in every form: this server has no models that take unnamed arrays."""

    def read(self, body: bytes, lane: Lane) -> Asked:
        """What the body asks for.

        Raises:
            Refusal: when it is not what MLflow's clients send.
        """
        asked = decode_pythons(body, Invocation)
        rows = asked.rows()
        check_count(len(rows), asked.params.keys)
        return Asked(as_json(rows, lane.predictor.fields), asked.params.keys or ())

    def write(self, lane: Lane, asked: Asked, request_id: str, answer: Answer) -> bytes:  # noqa: ARG002 - rows and no more
        """The body of the answer."""
        return b'{"predictions":%b}' % answer.as_json
