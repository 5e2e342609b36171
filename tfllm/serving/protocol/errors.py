"""The error type of server and client: a canonical status code and a message.

TensorFlow Serving uses the canonical codes of gRPC; its REST API maps them to HTTP.
"""

from __future__ import annotations

import re

HTTP_STATUS: dict[str, int] = {
    "OK": 200,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
"""canonical code to the HTTP status that TensorFlow Serving answers with"""

# TF_Code and google.rpc.Code have the same numbers, from OK = 0.
CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""canonical codes by number, as in TensorFlow's and gRPC's enumerations"""


class ServingError(ValueError):
    """A request that failed.

    Attributes:
        code: the canonical status code, such as "INVALID_ARGUMENT".
        message: the server's message.
        http_status: the HTTP status of the reply over REST.
    """

    def __init__(self, code: str, message: str, *, http_status: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.http_status = HTTP_STATUS.get(code, 500) if http_status is None else http_status


class GenerationError(ServingError):
    """The model refused at least one row of a `generate` or `score` request.

    Attributes:
        errors: a string for each row; "" if the row was answered.
        outputs: all outputs of the request by name, with the answers to the other rows.
    """

    def __init__(self, errors: list[str], outputs: dict) -> None:
        bad = [(row, error) for row, error in enumerate(errors) if error]
        row, first = bad[0]
        where = "" if len(errors) == 1 else f"row {row}: "
        more = "" if len(bad) == 1 else f" (and {len(bad) - 1} more rows)"
        super().__init__("INVALID_ARGUMENT", f"{where}{first}{more}")
        self.errors = errors
        self.outputs = outputs


def invalid_argument(message: str) -> ServingError:
    """The error of a request that breaks a rule."""
    return ServingError("INVALID_ARGUMENT", message)


def from_exception(error: BaseException) -> ServingError:
    """Convert an exception to a `ServingError`; TensorFlow's exceptions keep their code."""
    if isinstance(error, ServingError):
        return error
    number = getattr(error, "error_code", None)
    text = getattr(error, "message", None)
    if isinstance(number, int) and isinstance(text, str) and 0 < number < len(CODES):
        return ServingError(CODES[number], clean_message(text))
    if isinstance(error, MemoryError):
        return ServingError("RESOURCE_EXHAUSTED", "out of memory")
    return ServingError("INTERNAL", f"{type(error).__name__}: {error}")


# Added to a kernel's message by TensorFlow's Python: where in Python the node was created.
_STACK = re.compile(
    r"Detected at node [^\n]*\n(?:<stack traces unavailable>\n|(?:(?:  [^\n]*)?\n)*)"
)
# Names of the graph's nodes, which mean nothing to a caller and differ from load to load.
_NODES = re.compile(r"\s*\[\[\{\{.*?\}\}\]\]|\n\s+\[\[[\w/.:-]+\]\]", re.S)
_CALL = re.compile(r"\s*\[Op:[^\]]*\](?: name:[^\n]*)?\s*$")
_FUNCTION = re.compile(r"\{\{function_node [^}]*\}\} ?")
_ROOTS = re.compile(
    r"^\d+ root error\(s\) found\.\n\s*\(0\) (?:[A-Z_]+: )?(.*?)\n\s*\(1\) .*", re.S
)


def clean_message(text: str) -> str:
    """TensorFlow's error message without the Python stack and the names of nodes.

    If a run has several root errors, only the first is kept.
    """
    text = _CALL.sub("", text).removeprefix("Graph execution error:\n").lstrip("\n")
    text = _STACK.sub("", text).replace("<stack traces unavailable>", "")
    text = _FUNCTION.sub("", _NODES.sub("", text)).strip()
    text = _ROOTS.sub(r"\1", text)
    return text.strip() or "the model's graph failed without a message"
