"""What identifies a result: settings as JSON that is equal exactly when the values are equal, and its hash."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel


def canonical(settings: BaseModel, **options: Any) -> str:
    """Return settings as JSON that is the same whenever the values are the same.

    Args:
        settings: The settings.
        **options: What ``model_dump`` takes, such as ``exclude``.

    Returns:
        JSON on one line with sorted keys.
    """
    return json.dumps(settings.model_dump(mode="json", **options), sort_keys=True)


def settings_hash(settings: BaseModel) -> str:
    """Return the SHA-256 of settings as canonical JSON: the same values give the same hash, in any order."""
    return hashlib.sha256(canonical(settings).encode()).hexdigest()
