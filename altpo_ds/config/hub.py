"""Whether the hub of models and datasets can be reached: asked once and briefly, where libraries retry for minutes."""

import os
from functools import cache

PATIENCE = 5  # seconds


def hub_endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


@cache
def hub_reachable() -> bool:
    """False also where HF_HUB_OFFLINE asks for it."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    import httpx  # knows the proxies of the environment

    try:
        httpx.head(hub_endpoint(), timeout=PATIENCE)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True
