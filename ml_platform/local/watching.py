"""What Dagster is doing, told in plain words as it happens."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ml_platform.local.runs import UNDER_WAY, WAITING, DagsterPage, Story

LOOK_BACK_SECONDS = 30.0


@dataclass
class Watch:
    """Every run from now on, whoever started it: a person, a schedule or a sensor."""

    page: DagsterPage
    say: Callable[[str], None]
    _stories: dict[str, Story] = field(default_factory=dict)
    _since: float = field(default_factory=time.time)

    def look(self) -> None:
        """What happened since the last look has been told."""
        now = time.time()
        # Runs that began and ended between two looks are found by when they were last touched.
        for run in reversed(self.page.runs(updatedAfter=self._since - LOOK_BACK_SECONDS)):
            if run.id not in self._stories and (not run.is_over or now > self._since):
                self._stories[run.id] = Story(run)
        self._since = now
        for story in self._stories.values():
            if not story.over:
                for event in self.page.news(story):
                    self.say(f"  {event}")

    def forget_the_past(self) -> None:
        """Runs that are over by now are not told about."""
        for run in self.page.runs(updatedAfter=self._since - LOOK_BACK_SECONDS):
            if run.is_over:
                self._stories[run.id] = Story(run, over=True)

    def are_over(self, run_ids: Iterable[str]) -> bool:
        """Whether all these runs have been told about to their end."""
        return all(run_id in self._stories and self._stories[run_id].over for run_id in run_ids)

    def obstacles(self, run_ids: Iterable[str]) -> dict[str, str]:
        """What kept models from going live in these runs, in words."""
        return {model: why for run_id in run_ids for model, why in self._stories[run_id].obstacles.items()}

    def under_way(self) -> list[str]:
        """The ids of runs that are being executed now."""
        return [run.id for run in self.page.runs(statuses=list(UNDER_WAY))]

    def already_refreshing(self) -> dict[str, str]:
        """The run that refreshes each model, queued ones included."""
        runs = self.page.runs(statuses=[*WAITING, *UNDER_WAY])
        return {model: run.id for run in runs for model in run.models if run.job in {"refresh", "__ASSET_JOB"}}
