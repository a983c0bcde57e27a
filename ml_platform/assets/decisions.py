"""Beside the corridor, decisions: the ledger as a timeline, refreshed whenever something was decided."""

from collections.abc import Sequence
from datetime import datetime

import dagster as dg

from ml_platform.assets.room import as_table, key
from ml_platform.modeling import drawing, timeline
from ml_platform.modeling.decisions import Entry, Outcome
from ml_platform.modeling.spec import ModelSpec

SHOWN = 20


def decisions(spec: ModelSpec) -> dg.AssetSpec:
    """What was decided about the model: written to the ledger by whoever decides."""
    return dg.AssetSpec(
        key=key(spec, "decisions"),
        group_name=spec.name,
        description="Every decision about the model with its reason: triggers granted and refused, gates, promotions, "
        "rollbacks, drift. `ml-platform history MODEL` prints the same.",
        owners=[spec.owner],
        kinds={"postgres"},
        tags={"model": spec.name},
        deps=[key(spec, "deployment")],
    )


def timeline_of(spec: ModelSpec, entries: Sequence[Entry], now: datetime) -> dg.AssetMaterialization:
    """The newest decisions as a picture and a table.

    Args:
        spec: the model.
        entries: its decisions, newest first.
        now: the time.
    """
    rows = {
        f"{entry.at:%Y-%m-%d %H:%M:%S} {entry.kind}": {
            "outcome": entry.outcome.value,
            "version": entry.version or "",
            "reason": entry.reason,
            "actor": entry.actor,
        }
        for entry in entries[:SHOWN]
    }
    return dg.AssetMaterialization(
        key(spec, "decisions"),
        metadata={
            "timeline": dg.MetadataValue.md(drawing.as_markdown("timeline", timeline.draw(spec.name, entries, now))),
            "newest": as_table(rows, "decided"),
        },
    )


def deployed(spec: ModelSpec, entry: Entry) -> dg.AssetMaterialization | None:
    """The deployment that a rollback or a repair made; a refresh tells its own."""
    if entry.outcome is not Outcome.LIVE or entry.version is None:
        return None
    return dg.AssetMaterialization(
        key(spec, "deployment"),
        description=entry.reason,
        metadata={"version": int(entry.version), "how": entry.kind.value, "actor": entry.actor},
    )
