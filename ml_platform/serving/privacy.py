"""Privacy: what of a request may be written down; applied before the journal, so that nothing else touches the disk."""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ml_platform.modeling.schema import Field, Logged

ROW = msgspec.json.Decoder(dict[str, msgspec.Raw])
ENCODER = msgspec.json.Encoder()
MISSING = b"null"


@dataclass(frozen=True)
class Discretion:
    """Columns that are left out, and columns that are hashed with the key."""

    excluded: frozenset[str]
    hashed: frozenset[str]
    key: bytes


def discretion(fields: Sequence[Field], hash_key: str) -> Discretion | None:
    """What the fields of a bundle ask for, to be made once for it; None where rows may be written down as they are.

    Raises:
        ValueError: when a column is to be hashed and there is no key: anybody could then try values out.
    """
    hashed = frozenset(f.name for f in fields if f.logged is Logged.HASHED)
    if hashed and not hash_key:
        msg = f"ML_PLATFORM_HASH_KEY is not set, and {', '.join(sorted(hashed))} must be hashed: set it to a secret"
        raise ValueError(msg)
    excluded = frozenset(f.name for f in fields if f.logged is Logged.EXCLUDED)
    return Discretion(excluded, hashed, hash_key.encode()) if excluded or hashed else None


def loggable(row_json: bytes, rules: Discretion) -> bytes:
    """The row as it may be written down.

    Args:
        row_json: one JSON object.
        rules: those of the bundle that answered it.

    Raises:
        msgspec.DecodeError: when it is no JSON object; then nothing of it may be written down.
    """
    row = {name: value for name, value in ROW.decode(row_json).items() if name not in rules.excluded}
    for name in rules.hashed & row.keys():
        row[name] = _hashed(bytes(row[name]), rules.key)
    return ENCODER.encode(row)


def _hashed(value: bytes, key: bytes) -> msgspec.Raw:
    """HMAC-SHA256 in hex; of a text its UTF-8, of a number its shortest form as a float. Missing stays missing."""
    if value == MISSING:
        return msgspec.Raw(value)
    read = msgspec.json.decode(value)
    if isinstance(read, int) and not isinstance(read, bool):
        read = float(read)  # 3 and 3.0 are the same number.
    data = read.encode() if isinstance(read, str) else ENCODER.encode(read)
    return msgspec.Raw(b'"%b"' % hmac.new(key, data, "sha256").hexdigest().encode())
