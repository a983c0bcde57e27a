"""The recipe: all that a model was trained from, so that it can be trained again and held against what it was."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import Any

import msgspec

from ml_platform.modeling import bundle


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a model was trained from; the seed and all other settings are in `files`, in its spec.

    `rows` is the hash of the Parquet file with the training rows, `files` the model's folder, `revision` the commit of
    the platform's own code, `packages` the version of each installed package, as uv.lock has it.
    """

    model: str
    rows: str
    rows_trained: int
    files: Mapping[str, bytes]
    revision: str
    python: str
    packages: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the answers to the golden rows of a model trained again differ from those kept: in how many, by how much."""

    rows: int
    different: int
    largest: float
    first: str

    @property
    def is_equal(self) -> bool:
        """Whether no row is answered differently."""
        return not self.different


def installed() -> dict[str, str]:
    """The version of each installed package."""
    return dict(sorted((d.name.lower(), d.version) for d in distributions()))


def compare(answers: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> Comparison:
    """Hold answers to the golden rows against those that were kept; within the tolerance of serving is equal."""
    found = bundle.differences(answers, kept)
    apart = [abs(a - b) for pair in zip(answers, kept, strict=False) for a, b in _numbers(*pair)]
    largest = max(apart, default=0.0)
    return Comparison(rows=len(kept), different=len(found), largest=largest, first=found[0] if found else "")


def differences(recipe: Recipe, now: Recipe) -> Iterator[str]:
    """What differs from what there is now, in words; the rows are not looked at."""
    if files := _changed(recipe.files, now.files, lambda *_: "changed"):
        yield f"code: the model's folder is another now ({files}); the pinned copy is trained"
    if recipe.revision != now.revision:
        yield f"code: the platform's own was {recipe.revision}, now {now.revision}"
    if recipe.python != now.python:
        yield f"lock: Python was {recipe.python}, now {now.python}"
    if packages := _changed(recipe.packages, now.packages, lambda old, new: f"{old}, now {new}"):
        yield f"lock: {packages}"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], how: Callable[[Any, Any], str]) -> str:
    """What was added, removed and changed, by name."""
    changed = {name: how(before[name], now[name]) for name in before if name in now and before[name] != now[name]}
    gone = {name: "no longer there" for name in before if name not in now}
    new = {name: "new" for name in now if name not in before}
    return ", ".join(f"{name} {what}" for name, what in sorted((changed | gone | new).items()))


def _numbers(answer: Mapping[str, Any], kept: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
    """The scores of one row in both answers."""
    for name in answer.keys() & kept.keys():
        one, other = answer[name], kept[name]
        if isinstance(one, Mapping):
            yield from _numbers(one, other)
        elif isinstance(one, float):
            yield one, float(other)
