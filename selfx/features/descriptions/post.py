"""Posting JSON and getting JSON back: what comes back may be anything, or nothing."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

LARGEST = 4 << 20
"""Bytes of an answer that are read at most."""

_PASSING = (408, 409, 425, 429)
_LONGEST_WAIT = 60.0


class Refused(Exception):
    """No usable answer, and why."""


class _Again(Exception):
    """No usable answer this time; `after` seconds the server asked to wait."""

    def __init__(self, why: str, after: float | None = None):
        super().__init__(why)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nothing: the key is for the host that was named."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def post_json(
    url: str,
    body: Any,
    key: str | None,
    *,
    read: Callable[[Any], T],
    tries: int,
    wait: float,
    timeout: float,
) -> T:
    """What `read` makes of the JSON that the server answers.

    Args:
      url: of http or https.
      body: sent as JSON.
      key: sent as a bearer token.
      read: turns the answer into what is wanted; ValueError if it is something else.
      tries: how often to ask; limits of rate, faults of the server and broken answers may pass.
      wait: seconds before the second try; doubled each time, unless the server says how long.
      timeout: seconds.

    Raises:
      Refused: there is no answer that can be used.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise Refused(f"{url!r} is no http address")
    request = urllib.request.Request(url, json.dumps(body).encode(), _headers(key), method="POST")
    for number in range(tries):
        try:
            return read(_ask(request, key, timeout))
        except (_Again, ValueError) as error:
            if number + 1 == tries:
                raise Refused(f"{_short(str(error), key)} ({tries} tries)") from error
            after = getattr(error, "after", None)
            time.sleep(min(wait * 2**number if after is None else after, _LONGEST_WAIT))
    raise Refused("not asked at all")


def _headers(key: str | None) -> dict[str, str]:
    own = {"Content-Type": "application/json"}
    return own if not key else {**own, "Authorization": f"Bearer {key}"}


def _ask(request: urllib.request.Request, key: str | None, timeout: float) -> Any:
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=timeout) as response:
            found = response.read(LARGEST + 1)
    except urllib.error.HTTPError as error:
        with error:
            said = _short(error.read(2000).decode("utf-8", "replace"), key)
        why = f"HTTP {error.code} {said}"
        if error.code in _PASSING or error.code >= 500:
            raise _Again(why, _seconds(error.headers.get("Retry-After"))) from None
        raise Refused(why) from None
    except (OSError, http.client.HTTPException) as error:
        raise _Again(str(getattr(error, "reason", error)) or type(error).__name__) from None
    if len(found) > LARGEST:
        raise _Again(f"an answer of more than {LARGEST} bytes")
    try:
        return json.loads(found)
    except (ValueError, RecursionError):
        raise _Again("an answer that is not JSON") from None


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        return None


def _short(text: str, key: str | None) -> str:
    """The first of a server's words, on one line, without the key."""
    text = text.replace(key, "***") if key else text
    line = " ".join(text.split())
    return "".join(c for c in line if c.isprintable())[:200]
