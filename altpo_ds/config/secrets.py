"""Keys and passwords never reach a message or a file."""

import os
import re
from collections.abc import Mapping
from typing import Any

VARIABLES = (
    "WANDB_API_KEY",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACEHUB_API_TOKEN",
    "OPENAI_API_KEY",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
)
SHORTEST = 6  # characters: a shorter value would hide ordinary words
USER_IN_URL = re.compile(r"(?<=://)[^/?#\s'\"]*@")
KEY_NAME = re.compile(r"api_?key|authorization|password|passwd|secret|bearer|cookie|(^|_|-)token$")


def hidden(text: str) -> str:
    """The text without the values of VARIABLES, and without user and password of an address."""
    for value in filter(None, map(os.environ.get, VARIABLES)):
        if len(value) >= SHORTEST:
            text = text.replace(value, "***")
    return USER_IN_URL.sub("***@", text)


def without_user(url: str) -> str:
    """A validator: an address as it is, refused where it holds a user or a password, for it is written to files."""
    if USER_IN_URL.search(url):
        raise ValueError("must hold neither user nor password: the key is read from the variable OPENAI_API_KEY")
    return url


def without_keys(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A validator: fields of a request, refused where a name says that its value is a secret."""
    for name, value in body.items():
        if KEY_NAME.search(name.lower()):
            raise ValueError(f"{name}: must hold no secret: the key is read from the variable OPENAI_API_KEY")
        if isinstance(value, Mapping):
            without_keys(value)
    return body
