"""The ledger's table: rows are added and never changed, by a role that could not change them if it wanted to."""

from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import sql

LOCK = "select pg_advisory_xact_lock(hashtext('ml_platform decisions'))"
TABLE = """
create table if not exists decisions (
    id bigint generated always as identity primary key,
    key text not null unique,
    at timestamptz not null,
    written_at timestamptz not null default now(),
    model text not null,
    kind text not null,
    outcome text not null,
    reason text not null,
    actor text not null,
    evidence jsonb not null,
    dagster_run text,
    mlflow_run text,
    version text,
    digest text
);
create index if not exists decisions_of_model on decisions (model, id desc);
create index if not exists decisions_live on decisions (model, at desc, id desc) where outcome = 'live';
create or replace function refuse_change() returns trigger language plpgsql as
    $$ begin raise exception 'decisions are only ever added'; end $$;
create or replace trigger decisions_stay before update or delete or truncate on decisions
    for each statement execute function refuse_change();
revoke all on decisions from public;
"""
GRANT = "grant usage on schema public to {}; grant select, insert on decisions to {}"
ROLE = "select from pg_roles where rolname = %s"


def install(owner_url: str, writer_url: str) -> None:
    """The table is there, and so is the role of `writer_url`, which may read it and add to it and nothing else.

    Args:
        owner_url: a user who may create tables, and the role if it is missing, in the platform's database.
        writer_url: the same database with the role's name and password.

    Raises:
        psycopg.Error: when the database does not allow it.
    """
    writer = urlsplit(writer_url)
    name = sql.Identifier(unquote(writer.username or ""))
    password = sql.Literal(unquote(writer.password or ""))
    with psycopg.connect(owner_url, connect_timeout=10) as connection:
        connection.execute(LOCK)
        if not _opens(writer_url):
            there = connection.execute(ROLE, (unquote(writer.username or ""),)).rowcount
            verb = sql.SQL("alter" if there else "create")
            connection.execute(sql.SQL("{} role {} login password {}").format(verb, name, password))
        connection.execute(TABLE)
        connection.execute(sql.SQL(GRANT).format(name, name))


def _opens(url: str) -> bool:
    """Whether the role is there with this password."""
    try:
        psycopg.connect(url, connect_timeout=10).close()
    except psycopg.OperationalError:
        return False
    return True
