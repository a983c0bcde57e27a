"""Products: what one room hands to the next, small values that travel as metadata of the materialization."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg
import msgspec

from ml_platform.modeling.promotion import Colour, Release
from ml_platform.modeling.splitting import Split
from ml_platform.resources.datasets import TableVersion

PRODUCT, NOT_PASSED = "product", "did_not_pass"


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """How far the source has been read: its cursor, as text, and the newest `changed_at`, if it has that."""

    cursor: str
    watermark: datetime | None


@dataclass(frozen=True, kw_only=True)
class RawData:
    """The table as pulled; `as_of` cuts it at a past moment, and what comes of it is never promoted.

    Only what is not cut says how far it was `pulled`.
    """

    table: TableVersion
    as_of: datetime | None
    pulled: Pulled | None = None


@dataclass(frozen=True, kw_only=True)
class ValidatedData:
    """The rows that passed the schema."""

    table: TableVersion
    as_of: datetime | None
    pulled: Pulled | None = None


@dataclass(frozen=True, kw_only=True)
class Features:
    """Key, event time, label and features of every validated row, and the rows they were made of."""

    table: TableVersion
    validated: TableVersion
    as_of: datetime | None
    pulled: Pulled | None = None


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A trained model: its MLflow run, the hash of its bundle, and the rows it must be judged on.

    It has learnt from what was `pulled`; an earlier winner that goes first has not.
    """

    run_id: str
    digest: str
    split: Split
    validated: TableVersion
    as_of: datetime | None
    pending_version: str | None = None
    pulled: Pulled | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The gate's decision on a trained model."""

    run_id: str
    won: bool
    reason: str
    as_of: datetime | None


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A registered winner."""

    release: Release


@dataclass(frozen=True, kw_only=True)
class Image:
    """What is deployed: a release whose bundle is in the bundle store."""

    release: Release


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A release that answers live traffic."""

    release: Release
    colour: Colour


class ProductIOManager(dg.IOManager):
    """Hands products from room to room through the event log, so that any single room can be run on its own."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Put the product on the materialization, if the room has one."""
        if obj is None:
            return
        context.add_output_metadata({PRODUCT: dg.MetadataValue.json(msgspec.to_builtins(obj))})

    def load_input(self, context: dg.InputContext) -> Any:
        """The product of the newest materialization of the room before.

        Raises:
            dagster.Failure: when that room has never run, or its product did not pass its checks.
        """
        event = context.instance.get_latest_materialization_event(context.asset_key)
        if event is None or event.asset_materialization is None:
            name = context.asset_key.to_user_string()
            msg = f"{name} has no product yet; materialize it first"
            raise dg.Failure(msg, allow_retries=False)
        metadata = event.asset_materialization.metadata
        if NOT_PASSED in metadata:
            name, checks = context.asset_key.to_user_string(), metadata[NOT_PASSED].value
            msg = f"{name} did not pass {checks}: correct the rows, or what the spec asks for, and materialize it again"
            raise dg.Failure(msg, allow_retries=False)
        product = metadata[PRODUCT].value
        return msgspec.convert(product, context.dagster_type.typing_type)
