"""TODO-DOC command_line."""

import os
import signal
import sys

from absl import flags

from lib import errors, visible
from lib.errors import InputError, Stopped

ENDINGS = {  # what ends a script early: its exit status and its line on stderr
  flags.Error: (1, "FATAL Flags parsing error: {}\nPass --help to see the flags.\n"),
  Stopped: (errors.EXIT_STOPPED, "stopped: {}\n"),
  InputError: (errors.EXIT_BAD_INPUT, "error: {}\n"),
  OSError: (
    errors.EXIT_BAD_INPUT,
    "error: {}\n",
  ),  # its text names the file: no space, no permission, no such folder
  KeyboardInterrupt: (130, "interrupted\n"),
}


def launch(main, flag_values: flags.FlagValues, doc: str | None = ""):
  """Runs a script's `main()`: parses sys.argv, then exits 0; 2 for bad input; 75 for an early stop; 130 for Ctrl-C; 1 for
  absl's flag errors.

  Each script keeps its flags in a FlagValues of its own, so that two scripts in one process (pytest, a second notebook cell,
  a re-run cell) never collide. In a notebook, sys.argv set in the cell's first lines gives the flags, errors are raised
  rather than turned into an exit, and the kernel's own argv is ignored.
  """
  notebook = "ipykernel" in sys.modules
  argv = (
    sys.argv[:1]
    if notebook and any(a.endswith(".json") or a == "-f" for a in sys.argv[1:2])
    else sys.argv
  )
  if any(a in ("--help", "-h", "-help") for a in argv[1:]):
    return print(f"{doc or ''}\nflags:\n{flag_values.get_help()}")
  handlers = {
    number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  }
  try:
    rest = flag_values(argv)[1:]
    if rest:
      raise flags.UnrecognizedFlagError(
        rest[0], f"unexpected argument {rest[0]!r}; flags are given as --name=value"
      )
    main()
  except tuple(ENDINGS) as error:
    if notebook and not isinstance(error, Stopped):
      raise
    status, line = next(ending for kind, ending in ENDINGS.items() if isinstance(error, kind))
    sys.stderr.write(line.format(visible.visible(" ".join(str(error).split("\n")))))
    if not notebook:
      sys.exit(status)
  finally:
    if (
      notebook
    ):  # a trainer's handlers must not outlive its cell: the kernel's own interrupt works again
      for number, handler in handlers.items():
        signal.signal(number, handler)


def say(text: str):
  """Prints a line at once. A lost terminal, a dead pipe or a full disk under it must not end a run: later lines go nowhere."""
  try:
    print(visible.visible(text), flush=True)
  except OSError:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
