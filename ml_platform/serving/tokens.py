"""Tokens: what some models ask of whoever wants predictions, as `Authorization: Bearer ...`."""

import hmac
import json
import logging
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_platform.settings import SettingsError

LOG = logging.getLogger(__name__)


def is_token(given: bytes, token: str) -> bool:
    """Whether an Authorization header has this token; how long it takes tells nothing about the token."""
    scheme, _, shown = given.partition(b" ")
    return bool(token) and scheme.lower() == b"bearer" and hmac.compare_digest(shown.strip(), token.encode())


def model_tokens(file: str) -> Mapping[str, str]:
    """The tokens in a JSON file `{"model": "token"}`; none when no file is named.

    Raises:
        SettingsError: when it is not there or holds something else.
    """
    if not file:
        return {}
    try:
        found: Any = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        # Not the error itself: a decoder's shows what it could not read.
        msg = f"ML_PLATFORM_SERVING_TOKENS names {file}, which cannot be read as JSON ({type(error).__name__})"
        raise SettingsError(msg) from None
    if not isinstance(found, dict) or not all(isinstance(token, str) and token for token in found.values()):
        msg = f'ML_PLATFORM_SERVING_TOKENS: {file} must hold {{"model": "token", ...}}'
        raise SettingsError(msg)
    return found


def check_tokens(file: str) -> None:
    """The file can be read, and whoever runs this server is told when others can read it, too.

    Raises:
        SettingsError: when it is not there or holds something else.
    """
    if model_tokens(file) and Path(file).stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        LOG.warning("%s holds tokens, and others than its owner may use it: chmod 600 it", file)
