"""Requests that are refused, and the error objects that OpenAI's clients understand."""

from typing import Any

from mdel_assets.errors import ServingError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class RefusedRequestError(ServingError):
    """A request that is not answered as it was meant.

    ``status`` is HTTP's; ``code`` names the reason in one word, ``param`` the field of the body.
    ``may_pass``: whether the same request may be answered later, where the status says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        param: str | None = None,
        may_pass: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.may_pass = may_pass

    def content(self) -> dict[str, Any]:
        """Return the body of the answer."""
        server = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": str(self),
            "type": _TYPES.get(self.status, server),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to the status."""
        if self.status == 401:
            return {"www-authenticate": "Bearer"}
        if not self.may_pass:
            # OpenAI's clients would try again for the status.
            return {"x-should-retry": "false"}
        return {"retry-after": "1"} if self.status in (429, 503) else {}


def wrong(message: str, *, param: str | None, code: str = "invalid_value") -> RefusedRequestError:
    """Return the refusal of a body that cannot be used, because of its field ``param``."""
    return RefusedRequestError(message, status=400, code=code, param=param)


def ending() -> RefusedRequestError:
    """Return the refusal of a server that was told to end."""
    message = "The server is shutting down. Ask again once it is back."
    return RefusedRequestError(message, status=503, code="shutting_down")
