"""How a script ends early: what it raises, and the exit status that run.sh and users see."""

EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75  # a deadline, SIGTERM or Ctrl-C: saved, and the same command goes on


class InputError(ValueError):
  """Bad input. The message is one line: what was found, what was expected, what to do."""


class Stopped(Exception):
  """The run stopped early on purpose, with everything saved; the message says how to continue."""


def check_option(name: str, value, valid):
  """Refuses a `value` that is not one of `valid`, naming those."""
  if value not in valid:
    raise InputError(f"{name} {value!r} is unknown; valid: {', '.join(valid)}")
