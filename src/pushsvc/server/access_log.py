"""A line in the log for every answer, if the operator asks for it."""

import logging
from time import perf_counter

from pushsvc.server.request import Request
from pushsvc.web.redaction import redacted_query

log = logging.getLogger("pushsvc.access")

_MOST = 1_000  # characters of a target


def note_answer(request: Request, *, status: int, id: str, address: str, begun: float) -> None:
    """Log one answer. ``begun`` is when its request was read, in ``perf_counter`` seconds.

    The line of a stream is written when its head is sent. The value of the parameter ``token`` is left out.
    """
    target = request.path + (f"?{redacted_query(request.query)}" if request.query else "")
    milliseconds = round(1_000 * (perf_counter() - begun), 3)
    fields = {
        "request_id": id,
        "address": address,
        "method": request.method,
        "target": target[:_MOST],
        "status": status,
        "ms": milliseconds,
    }
    log.info(
        '%s "%s %s" %d %.3f ms %s', address, request.method, target[:_MOST], status, milliseconds, id,
        extra={"fields": fields},
    )  # fmt: skip
