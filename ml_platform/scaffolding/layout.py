"""Layout: how generated code stands on the page, as ruff would leave it."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

WIDTH = 120
TEMPLATES = Path(__file__).parent / "templates"


def fill(name: str, values: Mapping[str, object]) -> str:
    """A file made from its template.

    Args:
        name: of the file.
        values: for each placeholder a text, or the lines that take its place, indented like it; without lines the
            placeholder's own line goes.
    """
    written: list[str] = []
    for line in (TEMPLATES / f"{name}.template").read_text(encoding="utf-8").splitlines():
        alone = re.fullmatch(r"( *)\$(\w+)", line)
        value = values.get(alone[2]) if alone else None
        if alone and isinstance(value, list):
            written += [f"{alone[1]}{one}" if one else "" for one in value]
        else:
            written.append(Template(line).substitute(values))
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(written)).rstrip("\n") + "\n"


def call(head: str, args: Sequence[str], tail: str, *, indent: int = 0) -> list[str]:
    """A call, or anything else in brackets, on as few lines as fit; `indent` is how far it will stand from the left."""
    width = WIDTH - indent
    one_line = f"{head}{', '.join(args)}{tail}"
    if len(one_line) <= width:
        return [one_line]
    together = f"    {', '.join(args)}"
    return [head, *([together] if len(together) <= width else [f"    {arg}," for arg in args]), tail]


def comment(text: str) -> list[str]:
    """A comment over as many lines as it needs."""
    lines = ["#"]
    for word in text.split(" "):
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append("#")
        lines[-1] += f" {word}"
    return lines


def quoted(text: str) -> str:
    """The text as a Python literal, in the quotes that need no escape where there are such."""
    return repr(text) if '"' in text and "'" not in text else json.dumps(text, ensure_ascii=False)


def literal(value: object) -> str:
    """A label or category as Python writes it."""
    return quoted(value) if isinstance(value, str) else repr(value)
