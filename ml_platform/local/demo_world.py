"""The demo's world: students who arrive, ask and are later known; a form that changes, and a job that breaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
import psycopg
from psycopg.rows import dict_row

from ml_platform.local import company
from ml_platform.resources.serving import LocalServing
from ml_platform.serving.prediction_table import Prediction, PredictionTable
from ml_platform.settings import Settings

MODEL = "student_dropout"
INPUTS = ("motheduc", "fatheduc", "lfaminc", "cathhs", "parcath")
FIRST_ROWS, ROWS_A_WEEK, QUIET_ROWS = 3_000, 360, 120
LABELS_AFTER = 2
LOG_OF_1000 = 6.907755278982137
FORGET = "delete from students where student_id in (select student_id from students order by ctid offset %s)"
KEEP = "create table good as select student_id, motheduc from students where student_id % 8 = 0"
SPOIL = "update students set motheduc = -1, updated_at = %s where student_id %% 8 = 0"
MEND = "update students s set motheduc = g.motheduc, updated_at = %s from good g where g.student_id = s.student_id"
ASKING = timedelta(days=4)
NEW = "select student_id, hsgrad, motheduc, fatheduc, lfaminc, cathhs, parcath from students where updated_at = %s"


@dataclass(frozen=True, kw_only=True)
class Story:
    """What is injected, and when; the undrifted twin has no shift."""

    weeks: int = 12
    quiet: int | None = 2
    shift_from: int | None = 4
    broken: int | None = 11

    def is_shifted(self, week: int) -> bool:
        """Whether the students of a week filled in the new form."""
        return self.shift_from is not None and week >= self.shift_from

    def told(self, week: int) -> str:
        """What happens in the world in a week."""
        if week == self.quiet:
            return f"a holiday: {QUIET_ROWS} students instead of {ROWS_A_WEEK}, of the same kind (harmless)"
        if week == self.broken:
            return "an upstream job writes -1 as the mother's education of one student in eight (injected)"
        if self.shift_from and week == self.shift_from:
            return "a new form: from now on the family's income is given in thousands (injected)"
        if self.broken and week == self.broken + 1:
            return "the upstream job is mended"
        return "students ask as always"


@dataclass
class World:
    """What happens outside the platform; it touches only the source table and the model's endpoint."""

    here: Settings
    story: Story
    outcomes: dict[int, dict[int, str]] = field(default_factory=dict)

    def begin(self, now: datetime) -> None:
        """The company knows its first students, and what became of them."""
        company.load(self.here.source_url, now)
        with psycopg.connect(self.here.source_url) as connection:
            connection.execute(FORGET, (FIRST_ROWS,))

    def arrive(self, week: int, now: datetime) -> list[dict[str, Any]]:
        """New students are in the source table, and nobody knows yet what will become of them."""
        rows = QUIET_ROWS if week == self.story.quiet else ROWS_A_WEEK
        company.arrive(self.here.source_url, MODEL, rows, now)
        with psycopg.connect(self.here.source_url, row_factory=dict_row) as connection:
            if self.story.is_shifted(week):
                change = "update students set lfaminc = greatest(lfaminc - %s, 0) where updated_at = %s"
                connection.execute(change, (LOG_OF_1000, now))
            students = connection.execute(NEW, (now,)).fetchall()
            connection.execute("update students set hsgrad = '.' where updated_at = %s", (now,))
        self.outcomes[week] = {student["student_id"]: student["hsgrad"] for student in students}
        return students

    def ask(self, students: Sequence[Mapping[str, Any]], monday: datetime) -> None:
        """Each student is asked about once; the real answers are logged with the simulated time."""
        door = LocalServing(url=self.here.serving_url, token=self.here.serving_token)
        seen = door.observe(MODEL)
        release, colour = seen.live_release, seen.live
        if release is None or colour is None:
            return
        rows = [{name: student[name] for name in INPUTS} for student in students]
        answers = door.answer(MODEL, rows, None)
        step = ASKING / max(len(rows), 1)
        table = PredictionTable(self.here.platform_url)
        table.insert(
            [
                Prediction(
                    request_id=f"demo {monday:%Y-%m-%d} {number}",
                    row=0,
                    at_us=int((monday + step * number).timestamp() * 1e6),
                    model=MODEL,
                    version=release.version,
                    colour=colour.value,
                    key=str(student["student_id"]),
                    inputs=msgspec.json.encode(row),
                    output=msgspec.json.encode(answer),
                    latency_us=1_000,
                )
                for number, (student, row, answer) in enumerate(zip(students, rows, answers, strict=True))
            ]
        )
        table.close()

    def label(self, week: int, now: datetime) -> None:
        """What became of the students of an earlier week is known now."""
        with psycopg.connect(self.here.source_url) as connection, connection.cursor() as cursor:
            cursor.executemany(
                "update students set hsgrad = %s, updated_at = %s where student_id = %s",
                [(outcome, now, student) for student, outcome in self.outcomes.get(week, {}).items()],
            )

    def spoil(self, week: int, now: datetime) -> None:
        """An upstream job writes what cannot be, if it is the week for that."""
        if week == self.story.broken:
            with psycopg.connect(self.here.source_url) as connection:
                connection.execute(KEEP)
                connection.execute(SPOIL, (now,))

    def mend(self, week: int, now: datetime) -> None:
        """It is mended the week after."""
        if self.story.broken and week == self.story.broken + 1:
            with psycopg.connect(self.here.source_url) as connection:
                connection.execute(MEND, (now,))
