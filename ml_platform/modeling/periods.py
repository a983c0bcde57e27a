"""Periods: lengths of time in the words that people use for them."""

from datetime import timedelta

UNITS = {"day": timedelta(days=1), "hour": timedelta(hours=1), "minute": timedelta(minutes=1)}


def in_words(length: timedelta) -> str:
    """A length of time in the largest unit that divides it, such as 7 days; one day is 24 hours."""
    if length == UNITS["day"]:
        return "24 hours"
    for name, unit in UNITS.items():
        if length >= unit and not length % unit:
            count = length // unit
            return f"{count} {name}{'s'[: count > 1]}"
    return f"{length.total_seconds():g} seconds"
