"""Logs of a node: on standard error, one line each, without control characters, whosever text they quote."""

import json
import logging
import sys
import time

from p2pfl.node.monitoring.log_fields import fields_of
from p2pfl.node.monitoring.repeats import FewAlike
from p2pfl.terminal import one_line


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00Z info node.daemon: message``; a traceback follows on lines of its own."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%SZ"
    default_msec_format = ""

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix("p2pfl.")
        line = f"{self.formatTime(record)} {record.levelname.lower()} {name}: {one_line(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(TextFormatter):
    """One JSON object a line: time, level, logger, message, and as far as there are any peer, round and
    traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start_logging(level: str, *, as_json: bool) -> None:
    """Log this process's own messages from ``level`` up, and other libraries' warnings."""
    out = logging.StreamHandler(sys.stderr)
    out.addFilter(FewAlike())
    out.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(handlers=[out], level=logging.WARNING, force=True)
    logging.getLogger("p2pfl").setLevel(level.upper())
