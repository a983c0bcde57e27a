"""A scored table has each row once, with the newest answer or the reason why it has none, whatever happens."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psycopg
import pytest
from psycopg import sql
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_platform.modeling import bundle
from ml_platform.modeling.candidate import Fitted, pack
from ml_platform.modeling.engine import as_frame
from ml_platform.modeling.features import FeatureSet
from ml_platform.modeling.spec import Task
from ml_platform.modeling.validation import as_columns, compile_schema
from ml_platform.resources import score_target, scoring
from ml_platform.resources.clock import Clock
from ml_platform.resources.score_tables import ScoreTables
from ml_platform.resources.score_target import ScoreError
from ml_platform.resources.scoring import Champion, Order, Scored, score
from ml_platform.resources.source import SourceDatabase, SourceError, SourceUnavailableError, identifier
from ml_platform_tests.resources.conftest import Company
from ml_platform_tests.small_models import Schema, features_module, release

CHUNK = 100
ROWS = 1000
HOURS = timedelta(hours=12)
Score = Callable[..., Scored]


@pytest.fixture(scope="module")
def champions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Champion]:
    """Version 1 says 1 to large sizes; version 2 has learned the opposite."""
    made = {}
    for version, flipped in ((1, False), (2, True)):
        _, folder = release(tmp_path_factory.mktemp("model"), str(version), flipped=flipped)
        made[version] = Champion(model="small", version=version, predictor=bundle.load(folder, folder.name))
    return made


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small table is scored in many steps."""
    monkeypatch.setattr(scoring, "CHUNK_ROWS", CHUNK)


@pytest.fixture
def parts(company: Company) -> Company:
    """The company with a table of a thousand parts, of which 7 and 500 break the schema."""
    company.execute("CREATE TABLE parts (id bigint PRIMARY KEY, size float8, colour text)")
    company.execute("INSERT INTO parts SELECT g, g % 11, 'red' FROM generate_series(1, 1000) g")
    company.execute("UPDATE parts SET size = -1 WHERE id = 7")
    company.execute("UPDATE parts SET size = NULL WHERE id = 500")
    return company


@pytest.fixture
def run(source: SourceDatabase, champions: dict[int, Champion], tmp_path: Path) -> Score:
    """Score the parts."""

    def do(version: int = 1, at: datetime | None = None, **order: Any) -> Scored:
        wanted: dict[str, Any] = {"table": "parts", "key": "id", "into": "answers", **order}
        clock = tmp_path / "clock"
        clock.write_text((at or datetime.now(UTC)).isoformat())
        return score(
            source, champions[version], Order(continue_within=HOURS, **wanted), Clock(file=str(clock)), lambda _: None
        )

    return do


def answered(company: Company) -> list[tuple[Any, ...]]:
    """Every answer, by key: key, label, version."""
    return company.execute("SELECT id, label, model_version FROM answers ORDER BY id")


def expected(company: Company, version: int) -> list[tuple[Any, ...]]:
    """The same, computed by PostgreSQL: size 5.0 is the border that both have learned, where the first class wins."""
    large = 1 if version == 1 else 0
    return company.execute(
        "SELECT id, CASE WHEN size > 5 THEN %s WHEN size < 5 THEN %s ELSE 0 END::bigint, %s::int "
        "FROM parts WHERE size >= 0 ORDER BY id",
        large,
        1 - large,
        version,
    )


def test_each_row_is_there_once_as_the_endpoint_would_answer_it(
    parts: Company, run: Score, champions: dict[int, Champion]
) -> None:
    """Key, label, probability, version and time, in typed columns."""
    now = datetime(2026, 3, 1, 5, tzinfo=UTC)

    done = run(at=now)

    found = parts.execute("SELECT id, label, probability FROM answers ORDER BY id")
    rows = parts.execute("SELECT size FROM parts WHERE size >= 0 ORDER BY id")
    said = champions[1].predictor.answer([{"size": size} for (size,) in rows])
    assert answered(parts) == expected(parts, 1)
    assert [label for _, label, _ in found] == [a["label"] for a in said]
    assert [p for *_, p in found] == pytest.approx([a["probability"] for a in said], abs=1e-6)
    assert parts.execute("SELECT DISTINCT scored_at, pg_typeof(scored_at)::text FROM answers") == [
        (now, "timestamp with time zone")
    ]
    assert (done.rows, done.rows_scored, done.rows_rejected, done.rows_before) == (ROWS, ROWS - 2, 2, 0)
    assert len(done.sample) == ROWS - 2


def test_rows_that_break_the_schema_are_kept_aside_with_the_reason(parts: Company, run: Score) -> None:
    """What a request would be refused for; a row that was put right is answered the next time."""
    parts.execute("UPDATE parts SET size = 'inf' WHERE id = 8")
    parts.execute("UPDATE parts SET size = 'nan' WHERE id = 9")

    assert run().rows_rejected == 4

    reasons = 'SELECT id, field, rule, "value", model_version FROM answers_rejected ORDER BY id'
    assert parts.execute(reasons) == [
        (7, "size", "greater_than_or_equal_to 0", "-1.0", 1),
        (8, "size", "must be a finite number", "inf", 1),
        (9, "size", "must not be missing", "NaN", 1),
        (500, "size", "must not be missing", None, 1),
    ]
    parts.execute("UPDATE parts SET size = 3 WHERE id <> 500 AND (size < 0 OR size > 1000)")
    assert run().rows_rejected == 1
    assert [row[0] for row in parts.execute("SELECT id FROM answers_rejected")] == [500]
    assert answered(parts) == expected(parts, 1)


def test_a_stretch_of_bad_rows_only_is_no_obstacle(parts: Company, run: Score) -> None:
    """More than a chunk of them."""
    parts.execute("UPDATE parts SET size = -1 WHERE id BETWEEN 200 AND 450")

    assert run().rows_rejected == 253
    assert answered(parts) == expected(parts, 1)


def test_the_next_scoring_replaces_what_changed_and_forgets_what_is_gone(parts: Company, run: Score) -> None:
    """New, changed, spoiled and deleted rows; the table is always what the newest scoring found."""
    run()
    parts.execute("INSERT INTO parts SELECT g, 9, 'red' FROM generate_series(1001, 1200) g")
    parts.execute("INSERT INTO parts VALUES (-5, 9, 'red')")
    parts.execute("UPDATE parts SET size = 10 - size WHERE id BETWEEN 20 AND 40 AND size <= 10")
    parts.execute("UPDATE parts SET size = -3 WHERE id = 50")
    parts.execute("DELETE FROM parts WHERE id % 10 = 0 AND id > 500 OR id > 1150")
    later = datetime.now(UTC) + timedelta(days=1)

    done = run(at=later)

    ((count,),) = parts.execute("SELECT count(*) FROM parts")
    assert answered(parts) == expected(parts, 1)
    assert done.rows == count
    assert parts.execute("SELECT DISTINCT scored_at FROM answers") == [(later,)]
    parts.execute("DELETE FROM parts")
    assert run().rows == 0
    assert answered(parts) == []


def test_a_new_champion_answers_all_rows_anew(parts: Company, run: Score) -> None:
    """Also when it became champion while the old one's scoring was interrupted."""
    run(1)

    run(2)

    assert answered(parts) == expected(parts, 2)
    assert parts.execute("SELECT model_version, finished_at IS NOT NULL FROM answers_runs ORDER BY run") == [
        (1, True),
        (2, True),
    ]


def _score_and_die(url: str, folder: str, moment: str, commits: int) -> None:
    """Score the parts, and kill this process when some chunks are committed, or just before the last of them is."""
    step, written = getattr(ScoreTables, moment), []

    def last_step(*args: Any) -> Any:
        written.append(args)
        if len(written) == commits and moment == "_note":
            os.kill(os.getpid(), signal.SIGKILL)
        done = step(*args)
        if len(written) == commits:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(ScoreTables, moment, last_step)
    scoring.CHUNK_ROWS = CHUNK
    predictor = bundle.load(Path(folder), Path(folder).name)
    order = Order(table="parts", key="id", into="answers", continue_within=HOURS)
    champion = Champion(model="small", version=1, predictor=predictor)
    score(SourceDatabase(url=url), champion, order, Clock(), lambda _: None)


def _die(parts: Company, folder: Path, moment: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_score_and_die, args=(parts.url, str(folder), moment, 4))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(("moment", "finished"), [("write", 400), ("_note", 300)])
def test_a_killed_scoring_is_continued_where_it_was(
    parts: Company, run: Score, tmp_path: Path, moment: str, finished: int
) -> None:
    """Rows that changed meanwhile are there once; finished chunks are not scored again."""
    _, folder = release(tmp_path, "1")
    _die(parts, folder, moment)
    ((first,),) = parts.execute("SELECT max(scored_at) FROM answers")
    parts.execute("UPDATE parts SET size = 10 - size WHERE size BETWEEN 0 AND 10 AND id > 400 AND id % 3 = 0")
    parts.execute("UPDATE parts SET colour = 'blue' WHERE id % 2 = 0")

    done = run(at=first + timedelta(hours=1))

    assert (done.rows_before, done.rows, done.rows_scored, done.rows_rejected) == (finished, ROWS - finished, 998, 2)
    assert answered(parts) == expected(parts, 1)
    assert parts.execute("SELECT max(id) FROM answers WHERE scored_at = %s", first) == [(finished,)]
    assert parts.execute("SELECT rows_scored, rows_rejected FROM answers_runs") == [(998, 2)]


@pytest.mark.parametrize("why", ["too old", "asked for", "another champion", "the target was emptied", "other rows"])
def test_an_interrupted_scoring_that_means_something_else_now_is_not_continued(
    parts: Company, run: Score, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """What it finished would be taken for new."""
    with monkeypatch.context() as breaking:
        breaking.setattr(scoring._Report, "__call__", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert answered(parts) == expected(parts, 1)[: CHUNK - 1]
    at = datetime.now(UTC) + timedelta(hours=13 if why == "too old" else 0)
    if why == "the target was emptied":
        parts.execute("TRUNCATE answers")
    if why == "other rows":
        parts.execute("CREATE TABLE fresh (LIKE parts INCLUDING ALL)")
        parts.execute("INSERT INTO fresh SELECT id, 4, 'red' FROM parts")
        parts.execute("DROP TABLE parts")
        parts.execute("ALTER TABLE fresh RENAME TO parts")
    version = 2 if why == "another champion" else 1

    done = run(version, at, anew=why == "asked for")

    assert (done.rows_before, done.rows) == (0, ROWS)
    assert answered(parts) == expected(parts, version)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_key_that_rows_share_is_refused(parts: Company, run: Score) -> None:
    """Its rows could not be told apart."""
    with pytest.raises(SourceError, match=r"key colour: .* values that several rows share"):
        run(key="colour")

    assert parts.execute("SELECT count(*) FROM answers") == [(0,)]


def test_the_rows_are_those_of_one_moment(parts: Company, run: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that move, come and go while the scoring runs do not touch it."""
    before = expected(parts, 1)
    write = ScoreTables.write

    def meanwhile(*args: Any) -> Any:
        parts.execute("UPDATE parts SET size = 10 - size WHERE size BETWEEN 0 AND 10")
        parts.execute("DELETE FROM parts WHERE id = (SELECT max(id) FROM parts)")
        parts.execute("INSERT INTO parts SELECT max(id) + 7, 3, 'red' FROM parts")
        return write(*args)

    monkeypatch.setattr(ScoreTables, "write", meanwhile)

    assert run().rows == ROWS
    assert answered(parts) == before


def test_a_lost_connection_is_worth_another_try_which_continues(
    parts: Company, run: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed before stays committed."""
    copy, copied = ScoreTables._copy, []

    def cut(*args: Any) -> None:
        copied.append(args)
        if len(copied) == 7:
            parts.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        copy(*args)

    with monkeypatch.context() as cutting:
        cutting.setattr(ScoreTables, "_copy", cut)
        with pytest.raises(SourceUnavailableError):
            run()

    done = run()

    assert (done.rows_before, done.rows) == (3 * CHUNK, ROWS - 3 * CHUNK)
    assert answered(parts) == expected(parts, 1)


def test_two_scorings_do_not_write_one_target(parts: Company, run: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second says so, and the first is not disturbed."""
    monkeypatch.setattr(score_target, "LOCK_PATIENCE", "50ms")
    write, refused = ScoreTables.write, []

    def meanwhile(*args: Any) -> Any:
        monkeypatch.setattr(ScoreTables, "write", write)
        with pytest.raises(ScoreError, match="another scoring is writing answers: wait until it has ended"):
            run()
        refused.append(True)
        return write(*args)

    monkeypatch.setattr(ScoreTables, "write", meanwhile)

    run()

    assert refused == [True]
    assert answered(parts) == expected(parts, 1)


@pytest.mark.parametrize(
    ("type_", "key"),
    [
        ("int", "g"),
        ("bigint", "g * 4000000000"),
        ("smallint", "g - 500"),
        ('text COLLATE "C"', "chr(65 + g % 58) || g || ',\"' || chr(10)"),
        ("text", "chr(65 + g % 58) || 'é' || g"),
        ("varchar(40)", "CASE g WHEN 1 THEN '' ELSE '\\.' || g END"),
        ("char(8)", "'k' || g"),
        ("numeric(12, 3)", "g * 1.125"),
        ("uuid", "md5(g::text)::uuid"),
        ("timestamptz", "'2026-01-01'::timestamptz + g * interval '1.000001 s'"),
        ("timestamp", "'2026-01-01'::timestamp + g * interval '1.000001 s'"),
        ("date", "'2026-01-01'::date + g"),
        ("float8", "g / 3.0::float8"),
    ],
)
def test_any_type_of_key_keeps_its_type_order_and_rows(company: Company, run: Score, type_: str, key: str) -> None:
    """The answers have the source's key in the source's type, and join with it."""
    company.connection.execute(f"CREATE TABLE parts (id {type_} PRIMARY KEY, size float8)".encode())
    company.connection.execute(f"INSERT INTO parts SELECT {key}, g % 11 FROM generate_series(1, 950) g".encode())

    for _ in range(2):
        run()

    joined = company.execute("SELECT count(*), sum(label - (size > 5)::int) FROM answers JOIN parts USING (id)")
    assert joined == [(950, 0)]
    assert company.execute("SELECT count(*) FROM answers") == [(950,)]


@pytest.mark.parametrize(
    ("table", "into"),
    [("risk.parts", "risk.answers"), ('risk."odd ""name"".1"', 'risk."odd .answers"'), ("Parts", "Answers")],
)
def test_names_with_a_schema_and_odd_names_are_taken(parts: Company, run: Score, table: str, into: str) -> None:
    """As everywhere in the platform; upper case is kept."""
    parts.execute("CREATE SCHEMA risk")
    copy = sql.SQL("CREATE TABLE {} AS SELECT * FROM parts").format(identifier(table))
    parts.connection.execute(copy)

    done = run(table=table, into=into)

    for name, rows in ((into, 998), (done.rejected, 2), (done.runs, 1)):
        found = parts.connection.execute(sql.SQL("SELECT count(*) FROM {}").format(identifier(name))).fetchone()
        assert found == (rows,)


def test_a_view_can_be_scored(parts: Company, run: Score) -> None:
    """The remedy for columns that do not fit."""
    parts.execute("CREATE VIEW fitting AS SELECT id AS part, abs(coalesce(size, 1)) AS size FROM parts")

    done = run(table="fitting", key="part")

    assert (done.rows_scored, done.rows_rejected) == (ROWS, 0)


@pytest.mark.parametrize(
    ("prepare", "order", "message"),
    [
        ("SELECT 1", {"table": "part"}, r"no table part .*correct --from .*\(there is parts\)"),
        ("SELECT 1", {"key": "no"}, r"table parts has no column no: name its key with --key"),
        (
            "ALTER TABLE parts RENAME size TO length",
            {},
            r"table parts does not fit version 1 of small: column size is missing \(a number\); make a view",
        ),
        (
            "ALTER TABLE parts ALTER size TYPE text",
            {},
            r"column size is text, not a number; make a view",
        ),
        (
            "SELECT 1",
            {"into": "public.parts"},
            r"public.parts cannot be read and written at once.*another table with --to",
        ),
        (
            "CREATE TABLE answers (id bigint PRIMARY KEY, label bigint)",
            {},
            r"answers is there already, with other columns \(id bigint, label bigint, not id bigint, .*drop or rename",
        ),
        (
            "CREATE VIEW answers AS SELECT * FROM parts",
            {},
            r"answers is there already, with other columns",
        ),
        ("SELECT 1", {"into": "nowhere.answers"}, r"schema \"nowhere\" does not exist; CREATE SCHEMA first"),
        ("SELECT 1", {"into": "a" * 60}, r"at most 54 bytes of table"),
        ("SELECT 1", {"into": "a.b.c"}, r"write TABLE or SCHEMA.TABLE"),
        (
            "ALTER TABLE parts RENAME id TO label",
            {"key": "label"},
            r"the key label is called as a column of the answers: rename it in a view",
        ),
        (
            "CREATE TABLE x (LIKE parts); ALTER TABLE x RENAME TO answers_rejected",
            {"table": "answers_rejected"},
            r"at once",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(
    parts: Company, run: Score, prepare: str, order: dict[str, str], message: str
) -> None:
    """Before anything is written."""
    parts.connection.execute(prepare.encode())

    with pytest.raises((ScoreError, SourceError), match=message):
        run(**order)

    assert parts.execute("SELECT count(*) FROM pg_class WHERE relname = 'answers_runs'") == [(0,)]


def test_a_target_is_one_models_and_one_tables(parts: Company, run: Score) -> None:
    """The answers to another table are not swept away."""
    run()
    parts.execute("CREATE TABLE others AS SELECT * FROM parts")

    with pytest.raises(
        ScoreError, match=r"answers holds the answers of small to public.parts: drop it, or name another"
    ):
        run(table="others")

    assert answered(parts) == expected(parts, 1)


def test_without_the_right_to_write_the_right_is_named(
    parts: Company, champions: dict[int, Champion], company_url: str
) -> None:
    """To make the tables, or to write those that are there; a user who may write them need not make them."""
    parts.execute("DROP ROLE IF EXISTS reader")
    parts.execute("CREATE ROLE reader LOGIN PASSWORD 'reads'")
    parts.execute("GRANT USAGE ON SCHEMA public TO reader")
    parts.execute("GRANT SELECT ON parts TO reader")
    info = psycopg.conninfo.conninfo_to_dict(company_url)
    reader = SourceDatabase(url=f"postgresql://reader:reads@{info['host']}:{info['port']}/{info['dbname']}")
    owner = SourceDatabase(url=company_url)
    order = Order(table="parts", key="id", into="answers", continue_within=HOURS)

    def attempt(source: SourceDatabase) -> Scored:
        return score(source, champions[1], order, Clock(), lambda _: None)

    with pytest.raises(
        ScoreError, match=r"does not let its user write answers .*schema public.*GRANT CREATE ON SCHEMA"
    ):
        attempt(reader)
    attempt(owner)
    with pytest.raises(ScoreError, match=r"permission denied for table answers.*INSERT, UPDATE, DELETE on answers, "):
        attempt(reader)
    parts.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON answers, answers_rejected, answers_runs TO reader")
    assert attempt(reader).rows == ROWS


def _champion(folder: Path, task: Task, labels: Sequence[Any]) -> Champion:
    """A small model of another task."""
    fields, module = compile_schema(Schema), features_module(folder)
    features = FeatureSet.of(module, {f.name: f.kind for f in fields})
    columns = as_columns(pl.DataFrame({"size": np.linspace(0, 10, len(labels))}), fields)
    seen = features.matrix(columns)
    pipeline = make_pipeline(
        StandardScaler(), LinearRegression() if task is Task.REGRESSION else LogisticRegression(C=100)
    )
    pipeline.fit(as_frame(seen, tuple(features.kinds.items())), np.asarray(labels))
    classes = () if task is Task.REGRESSION else tuple(pipeline[-1].classes_.tolist())
    fitted = Fitted(
        pipeline=pipeline, task=task, classes=classes, fields=fields, features=features, features_module=module
    )
    return Champion(
        model="small", version=3, predictor=pack(fitted, seen, columns, folder / "bundles", seed=1).predictor
    )


def test_a_multiclass_model_gives_the_label_its_probability_and_those_of_all_classes(
    parts: Company, source: SourceDatabase, tmp_path: Path
) -> None:
    """The probabilities as one JSON value, as the endpoint's answer has them."""
    champion = _champion(tmp_path, Task.MULTICLASS, ["small"] * 20 + ['"mid"'] * 20 + ["large"] * 20)
    order = Order(table="parts", key="id", into="answers", continue_within=HOURS)

    done = score(source, champion, order, Clock(), lambda _: None)

    (said,) = champion.predictor.answer([{"size": 5.0}])
    ((label, probability, probabilities),) = parts.execute(
        "SELECT label, probability, probabilities FROM answers WHERE id = 5"
    )
    assert (label, probabilities) == (said["label"], pytest.approx(said["probabilities"], abs=1e-6))
    assert probability == pytest.approx(max(said["probabilities"].values()), abs=1e-6)
    assert set(done.sample) == {"small", '"mid"', "large"}


def test_a_regression_gives_the_value(parts: Company, source: SourceDatabase, tmp_path: Path) -> None:
    """As a number."""
    champion = _champion(tmp_path, Task.REGRESSION, np.linspace(100, 200, 60).tolist())
    order = Order(table="parts", key="id", into="answers", continue_within=HOURS)

    score(source, champion, order, Clock(), lambda _: None)

    found = parts.execute('SELECT "value" FROM answers WHERE id = 5')
    assert found[0][0] == pytest.approx(150, abs=1e-3)
