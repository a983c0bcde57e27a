"""Alerts as a Dagster resource: where people listen, as the settings say."""

import dagster as dg

from ml_platform.resources.alert_channel import AlertChannel


class Alerts(dg.ConfigurableResource[None]):
    """Apprise URLs with spaces between them; empty when nobody listens."""

    urls: str

    @property
    def channel(self) -> AlertChannel:
        """The open channel."""
        return AlertChannel(self.urls)
