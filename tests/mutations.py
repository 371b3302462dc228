"""Seeded damage to valid input, by bytes and by values; a failure is found again by its seed."""

import copy
import json
from random import Random
from typing import Any

TEXTS = [
    "",
    " ",
    "\0",
    "null\0byte",
    "\ud800",
    "\u202eright to left",
    "שלום עולם",
    "\ufeffBOM",
    "a\r\nb",
    "\u2028line\u2029ends\x85",
    "../../etc/passwd",
    "/dev/null",
    "~",
    "$(id) `id` ${HOME}",
    "<script>alert(1)</script>",
    "e\u0301" * 50,
    "👩‍👩‍👧‍👦",
    "%s %d {0}",
    "x" * 5000,
]
VALUES = [
    None,
    True,
    0,
    -1,
    7,
    2**63,
    10**400,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"question": "q"},
    ["a", 1],
    *TEXTS,
]
CHUNKS = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n",
    b"\t",
    b"\xed\xa0\x80",
    b"\xc3",
    b"{",
    b"]",
    b'"',
    b":",
    b",",
    b"- ",
    b"&a ",
    b"*a",
    b"!!python/object:os.system x",
    b"\\ud800",
    b"1e999",
    b"NaN",
]


def damaged_bytes(data: bytes, rng: Random) -> bytes:
    """One or two of: a piece cut out, doubled or moved, bits flipped, a nasty chunk put in, the end cut off."""
    for _ in range(rng.choice([1, 1, 2])):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice([1, 2, 8, 64]))
        piece = data[start:end]
        other = rng.randrange(len(data) + 1)
        flipped = bytes(byte ^ (1 << rng.randrange(8)) for byte in piece)
        data = rng.choice(
            [
                data[:start] + data[end:],
                data[:start] + piece + data[start:],
                data[:other] + piece + data[other:],
                data[:start] + flipped + data[end:],
                data[:start] + rng.choice(CHUNKS) + data[start:],
                data[:start] + rng.choice(CHUNKS) + data[end:],
                data[:start],
            ]
        )
    return data


def damaged_value(value: Any, rng: Random) -> Any:
    """A copy with one or two places, at any depth, replaced, removed, renamed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2])):
        places = list(_places(value))
        if not places:
            return rng.choice(VALUES)
        holder, key = rng.choice(places)
        what = rng.randrange(5)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, dict):
            holder[str(key)[:-1] or rng.choice(TEXTS)] = holder.pop(key)
        elif what == 2 and isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def json_text(value: Any) -> str:
    """JSON as Python writes it: NaN and lone surrogates too, the latter escaped."""
    return json.dumps(value)
