"""Beside the corridor, scores: the champion's answers to a whole table, for the models whose spec asks for them."""

import dagster as dg

from ml_platform.assets.room import patiently, room
from ml_platform.modeling import drawing, pictures
from ml_platform.modeling.spec import ModelSpec, Scoring
from ml_platform.resources.bundles import BundleStore
from ml_platform.resources.clock import Clock
from ml_platform.resources.scoring import Order, Scored, champion_of, score
from ml_platform.resources.source import SourceDatabase
from ml_platform.resources.tracking import ExperimentTracking


def build(spec: ModelSpec, scoring: Scoring) -> dg.AssetsDefinition:
    """The scores of one model."""

    @room(
        spec,
        f"The champion's answer to every row of `{scoring.table}`, in the table `{scoring.into}` of the same database. "
        "Rows that break the model's schema are kept aside with the reason. Killed, it continues where it was.",
        kinds=("postgres",),
        beside=["deployment"],
    )
    def scores(
        context: dg.AssetExecutionContext,
        source: SourceDatabase,
        bundles: BundleStore,
        tracking: ExperimentTracking,
        clock: Clock,
    ) -> dg.MaterializeResult[None]:
        order = Order(
            table=scoring.table,
            key=scoring.key or spec.source.key,
            into=scoring.into,
            continue_within=scoring.continue_within,
        )
        with patiently(context):
            champion = champion_of(tracking, bundles.path, spec.name)
            scored = score(source, champion, order, clock, context.log.info)
        return dg.MaterializeResult(
            value=None, metadata=_metadata(scored, tracking.version_link(spec.name, str(scored.version)))
        )

    return scores


def _metadata(scored: Scored, link: str) -> dict[str, dg.MetadataValue]:
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(scored.rows_scored),
        "rows_rejected": dg.MetadataValue.int(scored.rows_rejected),
        "rows_of_an_interrupted_scoring": dg.MetadataValue.int(scored.rows_before),
        "rows_per_s": dg.MetadataValue.float(scored.rows_per_s),
        "version": dg.MetadataValue.int(scored.version),
        "registered_version": dg.MetadataValue.url(link),
        "table": dg.MetadataValue.text(scored.into),
        "rejected_table": dg.MetadataValue.text(scored.rejected),
    }
    if scored.sample:
        picture = drawing.as_markdown("answers", pictures.of_answers(scored.sample))
        metadata["answers"] = dg.MetadataValue.md(picture)
    return metadata
