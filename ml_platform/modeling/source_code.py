"""The source code of a model's folder: known by its hash, without importing any of it."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from ml_platform.modeling.spec import ModelSpec


def files(spec: ModelSpec) -> dict[str, bytes]:
    """Every file of the model's folder by its path in there, as it is on disk now, without what Python compiled."""
    found = find_spec(spec.package)
    return {
        file.relative_to(place).as_posix(): file.read_bytes()
        for place in (found and found.submodule_search_locations) or ()
        for file in sorted(Path(place).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def fingerprint(spec: ModelSpec) -> str:
    """The hash of the Python files in the model's folder, as they are on disk now."""
    found = find_spec(spec.package)
    whole = hashlib.sha256()
    for place in (found and found.submodule_search_locations) or ():
        for file in sorted(Path(place).glob("*.py")):
            whole.update(f"{file.name}\n{file.stat().st_size}\n".encode() + file.read_bytes())
    return whole.hexdigest()
