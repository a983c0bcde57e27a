"""The catalogue's index: every folder here, and in ML_PLATFORM_MODELS, that has a spec."""

import importlib
from dataclasses import replace
from pathlib import Path

from ml_platform import models, settings
from ml_platform.modeling.spec import ModelSpec, SpecError


def all_models() -> tuple[ModelSpec, ...]:
    """Every model, by name.

    Raises:
        SpecError: when a folder's spec is wrong; the message names the folder and the remedy.
    """
    return tuple(_spec(name) for name in sorted(_folders()))


def model(name: str) -> ModelSpec:
    """One model by its name.

    Raises:
        SpecError: when there is none of that name; the message lists those there are.
    """
    names = _folders()
    if name not in names:
        msg = f"there is no model {name!r}; the catalogue has {', '.join(sorted(names)) or 'no models yet'}"
        raise SpecError(msg)
    return _spec(name)


def _folders() -> set[str]:
    extra = settings.load().models
    if extra and extra not in models.__path__:
        models.__path__.append(extra)
    return {spec.parent.name for place in models.__path__ for spec in Path(place).glob("*/spec.py")}


def _spec(name: str) -> ModelSpec:
    package = f"{models.__name__}.{name}"
    module = importlib.import_module(f"{package}.spec")
    spec = getattr(module, "MODEL", None)
    if not isinstance(spec, ModelSpec):
        msg = f"{package}.spec: define MODEL = ModelSpec(...)"
        raise SpecError(msg)
    if spec.name != name:
        msg = f"{package}.spec: the folder is called {name!r}, but the spec says name={spec.name!r}; make them equal"
        raise SpecError(msg)
    return replace(spec, package=package)
