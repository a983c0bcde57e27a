"""Lengths of time are told as people tell them."""

from datetime import timedelta

import pytest

from ml_platform.modeling.periods import in_words


@pytest.mark.parametrize(
    ("length", "words"),
    [
        (timedelta(days=1), "24 hours"),
        (timedelta(days=7), "7 days"),
        (timedelta(days=1.5), "36 hours"),
        (timedelta(hours=1), "1 hour"),
        (timedelta(minutes=90), "90 minutes"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(seconds=90.5), "90.5 seconds"),
        (timedelta(0), "0 seconds"),
    ],
)
def test_the_largest_unit_that_fits_is_used(length: timedelta, words: str) -> None:
    """And a single day is 24 hours: the last day may be yesterday."""
    assert in_words(length) == words
