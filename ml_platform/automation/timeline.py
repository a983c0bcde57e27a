"""Timeline: what the ledger has new about a model is shown on its assets."""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from ml_platform.assets.decisions import deployed, timeline_of
from ml_platform.automation.ticks import ThriftySensor
from ml_platform.modeling.decisions import Entry, Kind
from ml_platform.modeling.spec import ModelSpec
from ml_platform.resources.clock import Clock
from ml_platform.resources.ledger import DecisionLedger
from ml_platform.resources.unavailable import UnavailableError

LOOK_EVERY_S = 15
AT_ONCE = 500
DRAWN = 300


def timeline_sensor(models: Sequence[ModelSpec], status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """Draws the timeline of each model about which something was decided."""
    specs = {spec.name: spec for spec in models}

    def timeline(
        context: dg.SensorEvaluationContext, ledger: DecisionLedger, clock: Clock
    ) -> dg.SensorResult | dg.SkipReason:
        position = int(context.cursor or 0)
        try:
            new = ledger.after(position, AT_ONCE)
            events = list(_events(specs, [entry for _, entry in new], ledger, clock))
        except UnavailableError as error:
            return dg.SkipReason(str(error))
        if not new:
            return dg.SkipReason("nothing was decided")
        return dg.SensorResult(asset_events=events, cursor=str(new[-1][0]))

    return ThriftySensor(
        name="timeline",
        evaluation_fn=timeline,
        minimum_interval_seconds=LOOK_EVERY_S,
        default_status=status,
        description="Shows what was decided about a model on its asset `decisions`",
    )


def _events(
    specs: Mapping[str, ModelSpec], new: Sequence[Entry], ledger: DecisionLedger, clock: Clock
) -> Iterator[dg.AssetMaterialization]:
    for entry in new:
        if entry.model in specs and entry.kind in (Kind.ROLLBACK, Kind.REPAIR):
            made = deployed(specs[entry.model], entry)
            if made:
                yield made
    for model in dict.fromkeys(entry.model for entry in new):
        if model in specs:
            yield timeline_of(specs[model], ledger.history(model, DRAWN), clock.now())
