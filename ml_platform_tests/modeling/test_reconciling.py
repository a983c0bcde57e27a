"""Reconciling: what each disagreement means, and that its remedy ends it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.modeling.reconciling import Finding, Seen, diagnose

VERSIONS = st.sampled_from([None, "1", "2", "3"])
SEEN = st.builds(
    Seen,
    traffic=VERSIONS,
    alias=VERSIONS,
    ledger=VERSIONS,
    pending=VERSIONS,
    refused=st.frozensets(st.sampled_from(["1", "2", "3"]), max_size=2),
    earlier=st.lists(st.sampled_from(["1", "2", "3"]), max_size=3).map(tuple),
)


def _seen(three: str, **more: object) -> Seen:
    traffic, alias, ledger = (None if letter == "-" else letter for letter in three)
    return replace(Seen(traffic=traffic, alias=alias, ledger=ledger), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "finding", "version"),
    [
        (_seen("111", earlier=("1",)), Finding.AGREED, "1"),
        (_seen("---"), Finding.AGREED, None),
        (_seen("-11", earlier=("1",)), Finding.NOTHING_SERVED, "1"),
        (_seen("-22", earlier=("2", "1"), refused=frozenset("2")), Finding.NOTHING_SERVED, "1"),
        (_seen("111", earlier=("1",), pending="2"), Finding.WINNER_WAITS, "2"),
        (_seen("111", earlier=("1",), pending="2", refused=frozenset("2")), Finding.AGREED, "1"),
        (_seen("---", pending="1"), Finding.WINNER_WAITS, "1"),
        # A winner's promotion died before the alias, then before the ledger.
        (_seen("211", earlier=("1",), pending="2"), Finding.HALF_PROMOTED, "2"),
        (_seen("2--", pending="2"), Finding.HALF_PROMOTED, "2"),
        (_seen("221", earlier=("1",)), Finding.UNRECORDED, "2"),
        # A rollback died: after the refusal, after the switch, after the alias.
        (_seen("222", earlier=("2", "1"), refused=frozenset("2")), Finding.REFUSED_SERVED, "1"),
        (_seen("122", earlier=("2", "1"), refused=frozenset("2")), Finding.HALF_PROMOTED, "1"),
        (_seen("112", earlier=("2", "1"), refused=frozenset("2")), Finding.UNRECORDED, "1"),
        # By hand.
        (_seen("131", earlier=("1",)), Finding.ALIAS_MOVED, "1"),
        (_seen("1-1", earlier=("1",)), Finding.ALIAS_MOVED, "1"),
        (_seen("311", earlier=("1",)), Finding.TRAFFIC_MOVED, "1"),
        (_seen("111", earlier=("1",), refused=frozenset("1")), Finding.REFUSED_SERVED, None),
    ],
)
def test_what_a_disagreement_means(seen: Seen, finding: Finding, version: str | None) -> None:
    """And which version is to answer."""
    found = diagnose(seen)

    assert (found.finding, found.version) == (finding, version)


@given(SEEN)
def test_the_remedy_ends_the_disagreement(seen: Seen) -> None:
    """Once the version answers, and alias and ledger say so, there is nothing more to repair."""
    version = diagnose(seen).version
    if version is not None:
        after = replace(seen, traffic=version, alias=version, ledger=version, pending=None)
        assert diagnose(after).finding is Finding.AGREED


@given(SEEN)
def test_a_refused_version_is_never_chosen(seen: Seen) -> None:
    """Whatever else disagrees."""
    assert diagnose(seen).version not in seen.refused
