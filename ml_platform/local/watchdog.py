"""The watchdog: looks at the vital signs every minute, or once from cron, and tells people what does not tick."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from textwrap import indent
from threading import Event, Thread
from time import time

from ml_platform.local import state
from ml_platform.local.processes import PlatformError
from ml_platform.local.runs import DagsterPage
from ml_platform.local.vitals import Finding, Look, look
from ml_platform.resources.alert_channel import AlertChannel
from ml_platform.settings import Settings, variable

LOOK_EVERY_S = 60.0
AGAIN_AFTER_S = 3600.0
BROKEN, MENDED = "ml_platform: something does not tick", "ml_platform: everything ticks again"


@dataclass(frozen=True)
class Told:
    """What the look before has found, and what was said of it when."""

    suspected: frozenset[str] = frozenset()
    about: frozenset[str] = frozenset()
    at: float = 0.0


@dataclass(frozen=True)
class Message:
    """What people are to hear."""

    title: str
    body: str


def news(found: Sequence[Finding], told: Told, now: float) -> tuple[Message | None, Told]:
    """What is to be said after a look, and what has been said after that.

    Two looks in a row must agree, so that a restart in between is not told. What lasts is said when it begins and once
    an hour; when all of it is over, that is said.

    Args:
        found: by this look.
        told: before.
        now: the time, in seconds since 1970.
    """
    suspected = frozenset(finding.about for finding in found)
    lasting = suspected & (told.suspected | told.about)
    if lasting - told.about or (lasting and now - told.at >= AGAIN_AFTER_S):
        body = "\n".join(finding.words for finding in found if finding.about in lasting)
        return Message(BROKEN, body), Told(suspected, lasting, now)
    if told.about and not suspected | told.suspected:
        return Message(MENDED, "What was said not to tick does."), Told()
    return None, replace(told, suspected=suspected)


@dataclass
class Watchdog:
    """Looks beside the platform, in a thread of its own: neither a slow page nor a dead channel holds anything up."""

    page: DagsterPage
    channel: AlertChannel
    say: Callable[[str], None]
    _told: Told = field(default_factory=Told)
    _unsent: Message | None = None
    _over: Event = field(default_factory=Event)

    def start(self) -> None:
        """It looks every minute from now on."""
        Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """It says nothing more."""
        self._over.set()

    def tell(self, found: Look, now: float) -> None:
        """People know what is new; a message that reached nobody is sent again after the next look."""
        message, self._told = news(found.findings, self._told, now)
        if message:
            self.say(f"{message.title}\n{indent(message.body, '  ')}")
        self._unsent = message or self._unsent
        if self._unsent and len(self.channel.send(self._unsent.title, self._unsent.body)) < max(1, len(self.channel)):
            self._unsent = None

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            try:
                found = look(self.page)
                if not self._over.is_set():
                    self.tell(found, time())
            except Exception as error:  # noqa: BLE001 - whatever it is, looking goes on
                self.say(f"The watchdog could not look ({error!r}) and tries again in a minute.")


def check(asked: Settings, say: Callable[[str], None], *, alert: bool) -> bool:
    """Look once and say what was found; whether everything ticks.

    Args:
        asked: where the platform is.
        say: takes what was found.
        alert: whether people are told what is wrong, too.
    """
    found, urls = _look_from_outside(asked)
    if not found.findings:
        say(f"everything ticks: {found.watched} daemons, sensors and schedules")
        return True
    for finding in found.findings:
        say(finding.words)
    if alert:
        say(_alert("\n".join(finding.words for finding in found.findings), AlertChannel(urls)))
    return False


def _look_from_outside(asked: Settings) -> tuple[Look, str]:
    """A look, and where people listen: at the platform that runs here, else at the page in the settings."""
    try:
        here = state.published(asked.state)
    except PlatformError as error:
        if asked.dagster_page:
            return look(DagsterPage(asked.dagster_page)), asked.alert_urls
        return Look([Finding("platform", str(error))]), asked.alert_urls
    return look(DagsterPage(here[variable("dagster_page")])), asked.alert_urls or here[variable("alert_urls")]


def _alert(body: str, channel: AlertChannel) -> str:
    """Tell people; what came of it in words."""
    if not channel:
        return "nobody was told: ML_PLATFORM_ALERT_URLS is empty"
    refused = channel.send(BROKEN, body)
    return f"not reached: {', '.join(refused)}" if refused else "told those named in ML_PLATFORM_ALERT_URLS"
