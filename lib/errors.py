"""TODO-DOC errors."""

EXIT_BAD_INPUT, EXIT_STOPPED = (
  2,
  75,
)  # 75: stopped early (deadline, SIGTERM, Ctrl-C) and can be continued


class InputError(ValueError):
  """Bad input. The message is one line: what was found, what was expected, what to do."""


class Stopped(Exception):
  """The run stopped early on purpose, with everything saved; the message says how to continue."""


def check_option(name: str, value, valid):
  if value not in valid:
    raise InputError(f"{name} {value!r} is unknown; valid: {', '.join(valid)}")
