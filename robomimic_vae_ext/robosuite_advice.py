"""Importing this module hides the warnings that robosuite prints in every process that imports it.

A filter on its logger, since robosuite sets the level itself; errors still show.
"""

import logging


def _is_an_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


logging.getLogger("robosuite_logs").addFilter(_is_an_error)
