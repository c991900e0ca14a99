"""Log lines on stderr, as text or as JSON."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
QUIET_LOGGERS = ("uvicorn.error",)  # at level info it repeats what we log: start, address, shutdown


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to `sys.stderr` as it is at that moment: a progress bar replaces it, to print lines above itself."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the ids of the request's trace, and what the record has in `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
            **_trace_ids(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _trace_ids() -> dict[str, str]:
    if "opentelemetry.trace" not in sys.modules:  # no server runs
        return {}
    from opentelemetry import trace

    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}


def configure_logging(level: str, *, as_json: bool = False) -> None:
    """Log to stderr, with the lines of all libraries in one format. Called once by a command."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(LOG_FORMAT, "%Y-%m-%dT%H:%M:%S%z"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if level == "info":
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
