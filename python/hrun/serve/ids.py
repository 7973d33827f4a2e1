"""Makes names that no one else has; they never come from the generator that draws tokens."""

from __future__ import annotations

import secrets
import string

_LETTERS = string.ascii_letters + string.digits


def new_id(prefix: str, n: int = 24) -> str:
    """The prefix and n letters or digits."""
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(n))
