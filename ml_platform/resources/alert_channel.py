"""The alert channel: the door to wherever people listen: Slack, e-mail, Teams, a webhook, through Apprise."""

from collections.abc import Sequence


class AlertChannel:
    """Apprise's services, named by their URLs; one that does not answer never raises."""

    def __init__(self, urls: str) -> None:
        """Open the channel.

        Args:
            urls: Apprise URLs with spaces between them; they hold passwords, so they are never repeated in a message.
        """
        self._urls: Sequence[str] = urls.split()

    def __len__(self) -> int:
        """How many services listen."""
        return len(self._urls)

    def send(self, title: str, body: str) -> list[str]:
        """Say it to everybody who listens.

        Returns:
            The services that did not take it, by kind and number, never by their URLs.
        """
        import apprise  # noqa: PLC0415 - half a second that only who has something to say pays for

        failed = []
        for number, url in enumerate(self._urls, 1):
            service = apprise.Apprise()
            if not (service.add(url) and service.notify(title=title, body=body)):
                failed.append(f"{url.partition('://')[0]} (number {number} in ML_PLATFORM_ALERT_URLS)")
        return failed
