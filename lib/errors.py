"""How a script ends early: what it raises, and the exit status that run.sh and users see."""

EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75  # a deadline, SIGTERM, Ctrl-C, a lost host: the same command goes on
EXIT_LEAD_LOST = 76  # the same, to lib/following.py alone: no further order will come


class InputError(ValueError):
  """Bad input. The message is one line: what was found, what was expected, what to do."""


class Stopped(Exception):
  """The run stopped early on purpose, with everything saved; the message says how to continue.

  agreed: of several hosts all stop here, for the same reason.
  """

  def __init__(self, message: str, agreed: bool = False):
    super().__init__(message)
    self.agreed = agreed


def check_option(name: str, value, valid):
  """Refuses a `value` that is not one of `valid`, naming those."""
  if value not in valid:
    raise InputError(f"{name} {value!r} is unknown; valid: {', '.join(valid)}")
