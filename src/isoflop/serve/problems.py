"""What a request is refused with: a status, and an error in OpenAI's form."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """Why a request is not served.

    Args:
        status: of HTTP.
        message: what is wrong, and what to do.
        code: a word for programs.
        param: the parameter that it is about.
        kind: OpenAI's word for the kind of error.
        headers: of the answer.

    Example:
        >>> unknown_model("a", ["b"]).body()["error"]["code"]
        'model_not_found'
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers or {}
        self.kind = kind or ("invalid_request_error" if status < 500 else "server_error")

    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refusal:
    """A request that means nothing."""
    return Refusal(400, message, param=param, code=code)


def unknown_model(name: str, known: list[str]) -> Refusal:
    """A model that is not served."""
    what = f"The model {name!r} does not exist here; served: {', '.join(known)}"
    return Refusal(404, what, param="model", code="model_not_found")


def unfit(tokens: int, context: int) -> Refusal:
    """A prompt that is too long, with what is to follow it."""
    what = f"This model's maximum context length is {context} tokens; the prompt and max_tokens ask for {tokens}"
    return Refusal(400, what, param="prompt", code="context_length_exceeded")


def busy(what: str = "Too many requests are waiting; try again in a moment") -> Refusal:
    """Too much is waiting."""
    return Refusal(429, what, code="queue_full", kind="rate_limit_error", headers={"retry-after": "1"})


def stopping() -> Refusal:
    """The server ends."""
    return Refusal(503, "The server is stopping", code="server_stopping", headers={"connection": "close"})


def late(seconds: float) -> Refusal:
    """It took too long."""
    return Refusal(504, f"The request took longer than the server's limit of {seconds:g} seconds", code="timeout")


def failed(why: str = "the model's step failed") -> Refusal:
    """Something that nobody foresaw, or a model that is no good."""
    return Refusal(500, f"The server failed: {why}", code="internal_error")
