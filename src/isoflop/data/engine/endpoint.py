"""A generator behind an address that speaks OpenAI's protocol, such as ``isoflop serve``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from ...core.cost import Cost
from ...core.digests import digest, document_hash
from ...core.errors import DataError, UsageError
from .rephrasing import PREAMBLE, STYLES

_AGAIN = (408, 409, 429, 500, 502, 503, 504)
"""Statuses after which the same question may be answered."""


class EndpointRephraser:
    """Asks for chat completions. Its FLOPs are nobody's here: they are not known.

    Args:
        url: up to and with the version, e.g. ``http://127.0.0.1:8000/v1``.
        model: its name there.
        temperature: of what is drawn.
        tokens: of an answer, at most.
        together: questions that are asked at once.
        patience: seconds that an answer may take.
        tries: how often a question is asked before it is an error.
        pause: seconds before the second try, twice as many before each other one.

    Example:
        >>> EndpointRephraser("http://127.0.0.1:8000/v1", "mine").concurrent
        False
    """

    concurrent = False

    def __init__(
        self,
        url: str,
        model: str,
        *,
        temperature: float = 0.7,
        tokens: int = 600,
        together: int = 8,
        patience: float = 600.0,
        tries: int = 5,
        pause: float = 1.0,
    ) -> None:
        found = urlsplit(url)
        if found.scheme not in ("http", "https") or not found.hostname:
            raise UsageError("is no address", where=url, fix="e.g. http://127.0.0.1:8000/v1")
        self._to, self.model, self.cost = found, model, Cost()
        self._asked = {"model": model, "temperature": temperature, "max_tokens": tokens}
        self._together, self._patience, self._tries, self._pause = together, patience, tries, pause
        self.identity = f"endpoint:{digest([found.path, self._asked])[:16]}:{model}"
        self.bill: dict[str, Any] = {"flops": 0, "unknown": True, "endpoint": f"{found.netloc}{found.path}"}

    def rewrite(self, pieces: Sequence[tuple[str, str]], draw: str) -> list[str]:
        """Each text in its style, several asked for at once; the seed of each is a hash of the draw and its number.

        Raises:
            DataError: the server does not answer, or answers with an error; what was answered before is kept.
        """
        with ThreadPoolExecutor(self._together) as pool:
            numbered = ((number, *piece, draw) for number, piece in enumerate(pieces))
            return list(pool.map(lambda each: self._one(*each), numbered))

    def _one(self, number: int, text: str, style: str, draw: str) -> str:
        seed = int.from_bytes(document_hash(f"{draw}:{number}")[:4], "big") >> 1
        messages = [
            {"role": "system", "content": PREAMBLE},
            {"role": "user", "content": f"{STYLES[style]}\n\n{text}"},
        ]
        body = json.dumps({**self._asked, "messages": messages, "seed": seed}).encode()
        problem = ""
        for turn in range(self._tries):
            if turn:
                time.sleep(self._pause * 2 ** (turn - 1))
            try:
                status, answer = self._post(body)
            except (OSError, HTTPException) as error:
                problem = f"does not answer ({error or type(error).__name__})"
                continue
            if status == 200:
                return self._said(answer)
            problem = f"answers {status}: {answer[:200].decode('utf-8', 'replace')}"
            if status not in _AGAIN:
                break
        raise DataError(problem, where=self._to.geturl(), fix="see to it and run the same command again")

    def _post(self, body: bytes) -> tuple[int, bytes]:
        kind = HTTPSConnection if self._to.scheme == "https" else HTTPConnection
        connection = kind(str(self._to.hostname), self._to.port, timeout=self._patience)
        try:
            path = f"{self._to.path.rstrip('/')}/chat/completions"
            connection.request("POST", path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _said(self, answer: bytes) -> str:
        try:
            return str(json.loads(answer)["choices"][0]["message"]["content"] or "")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            what = f"answers in no form of OpenAI's: {answer[:200].decode('utf-8', 'replace')}"
            raise DataError(what, where=self._to.geturl()) from error
