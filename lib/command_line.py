"""From a command line to a script's `main()` and to an exit status: flags, one-line errors, printed
lines.

`launch` is the last line of every script. `python -m lib.command_line` reads commands and checks
the flags of each without running it: run.sh asks for all stages before the first one starts.
"""

import difflib
import math
import os
import re
import runpy
import signal
import sys
import time
import traceback
import urllib.parse

from absl import flags

from lib import errors, folders, host_lines, hosts, meeting, run_size, visible
from lib.errors import InputError, Stopped

CHECK_ONLY = "--check_flags"  # the flags are read and checked, `main` is not called

ENDINGS = {  # what ends a script early: its exit status and its line on stderr
  flags.Error: (1, "FATAL Flags parsing error: {}\nPass --help to see the flags.\n"),
  Stopped: (errors.EXIT_STOPPED, "stopped: {}\n"),
  InputError: (errors.EXIT_BAD_INPUT, "error: {}\n"),
  # Its text names the file: no space, no permission, no such folder.
  OSError: (errors.EXIT_BAD_INPUT, "error: {}\n"),
  KeyboardInterrupt: (130, "interrupted\n"),
}


# A flag means the same in every script, so what it may be is said once, beside the bounds of absl.
def is_address(text: str) -> bool:
  """A web address, or empty for none."""
  address = urllib.parse.urlsplit(text)
  return not text or (address.scheme in ("http", "https") and bool(address.hostname))


def is_own_or_published(value: float) -> bool:
  return value == -1 or value >= 0


def is_positive(value: float) -> bool:
  return value > 0


def is_not_negative(value: float) -> bool:
  return value >= 0


def is_seed(value: int) -> bool:
  return 0 <= value < 2**32  # what JAX's keys and NumPy's generators take


MAY_BE = {  # flag: whether a value is one, and that in words
  "mesh": (re.compile(r"auto|[1-9]\d*x[1-9]\d*").fullmatch, "auto, or FSDPxTP such as 4x2"),
  "dtype": (re.compile("auto|float32|bfloat16").fullmatch, "auto, float32 or bfloat16"),
  "max_steps": (re.compile(r"auto|0*[1-9]\d*").fullmatch, "a positive number, or auto"),
  "judge_url": (is_address, "http://… or https://…"),
  "beta": (is_own_or_published, "0 or more, or -1 for the published one"),
  "dynamic_sampling": (is_own_or_published, "0 or more, or -1 for the published number"),
  "lora_alpha": (is_positive, "a number above 0"),
  "max_grad_norm": (is_positive, "a number above 0"),
  "learning_rate": (is_not_negative, "0 or more"),
  "weight_decay": (is_not_negative, "0 or more"),
  "epsilon": (is_not_negative, "0 or more"),
  "epsilon_high": (is_not_negative, "0 or more"),
  "temperature": (is_not_negative, "0 or more; 0 is greedy"),
  "max_hours": (is_not_negative, "0 or more; 0 is no limit"),
  "overlong_buffer": (is_not_negative, "0 or more; 0 is none"),
  "limit": (is_not_negative, "0 or more; 0 is all"),
  "seed": (is_seed, "0 or more, below 2^32"),
  "out_dir": (bool, "a folder to write"),
  "data_dir": (bool, "a folder that prepare_data.py wrote"),
  "model": (bool, "tiny, a name such as gemma-3-1b-it, or a folder"),
}


def check_values(flag_values: flags.FlagValues):
  """Refuses what absl lets through: numbers that are none, and values that make no sense."""
  for name in flag_values:
    value = flag_values[name].value
    # float("nan") and float("inf") are numbers to absl, and nan passes every bound.
    if isinstance(value, float) and not math.isfinite(value):
      raise InputError(f"--{name}={value}: expected a finite number")
    valid, words = MAY_BE.get(name, (None, ""))
    if valid and value is not None and not valid(value):
      raise InputError(f"--{name}={value}: expected {words}")
  if "max_steps" in flag_values and flag_values.max_steps == "auto" and not flag_values.max_hours:
    raise InputError(
      "--max_steps=auto fills a time: expected a number, or auto together with --max_hours"
    )


def expand_home(flag_values: flags.FlagValues):
  """~ at the start of a path: a shell leaves it as it is inside --name=~/path."""
  for name in flag_values:
    flag = flag_values[name]
    # Some flags hold several paths; a comma inside a path is kept, for the parts are joined again.
    if isinstance(flag.value, str) and "~" in flag.value:
      parts = [os.path.expanduser(part) for part in flag.value.split(",")]
      flag.value = ",".join(parts)
    elif isinstance(flag.value, list):
      flag.value = [os.path.expanduser(part) for part in flag.value]


def command_of(argv: list[str]) -> list[str]:
  """argv without the connection file that a notebook's kernel was started with."""
  # Jupyter starts it as `ipykernel_launcher.py -f kernel-….json`.
  started_kernel = any(word.endswith(".json") or word == "-f" for word in argv[1:2])
  return argv[:1] if "ipykernel" in sys.modules and started_kernel else argv


def read_flags(flag_values: flags.FlagValues, argv: list[str]):
  """Parses and checks the flags; a word that is no flag is refused."""
  rest = flag_values(argv)[1:]  # absl leaves words without dashes for the script to read
  if rest:
    raise flags.UnrecognizedFlagError(
      rest[0], f"unexpected argument {rest[0]!r}; flags are given as --name=value"
    )
  expand_home(flag_values)
  check_values(flag_values)


def join_hosts(flag_values: flags.FlagValues):
  """Joins the processes that --hosts names, before the first use of a device."""

  def describe() -> dict:
    words = [word for word in sys.argv[1:] if not word.lstrip("-").startswith("hosts=")]
    return {
      "code": folders.git_commit(),
      "script": os.path.basename(sys.argv[0]),
      # --hosts says which host this is; all else must be the same.
      "flags": {name: flag_values[name].value for name in flag_values if name != "hosts"},
      "words": words,
    }

  meeting.join(flag_values.hosts, describe)


def launch(main, flag_values: flags.FlagValues, doc: str | None = "", check=None):
  """Runs a script's `main()` with the flags of sys.argv, and exits with a status.

  0: done; 2: bad input; 75: stopped early; 130: Ctrl-C; 1: absl's flag errors. check: a function
  that refuses flags that do not go together; it is called before `main` and before any stage of
  run.sh.

  Each script keeps its flags in a FlagValues of its own, so that two scripts in one process
  (pytest, a second notebook cell, a re-run cell) never collide. In a notebook, sys.argv set in the
  cell's first lines gives the flags, and an error is raised rather than turned into an exit.
  """
  notebook = "ipykernel" in sys.modules
  argv = command_of(sys.argv)
  if any(word in ("--help", "-h", "-help") for word in argv[1:]):
    print(f"{doc or ''}\nflags:\n{flag_values.get_help()}")
    return
  only_check = CHECK_ONLY in argv  # no flag of absl's: it is no setting of any script
  signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
  handlers = {number: signal.getsignal(number) for number in signals}
  try:
    read_flags(flag_values, [word for word in argv if word != CHECK_ONLY])
    if check:
      check()
    if not only_check:
      main()
    if hosts.several():
      host_lines.end_together(0, "", agreed=True)
  except tuple(ENDINGS) as error:
    if hosts.several():
      end_all_hosts(error)
    # A cell must fail, so that "run all" stops; a run that stopped early has saved its state.
    if notebook and not isinstance(error, Stopped):
      raise
    if only_check and isinstance(error, flags.Error):
      error = InputError(str(error))  # run.sh's own refusals are one line and exit 2
    where = f"{os.path.basename(argv[0])}: " if only_check else ""
    if not only_check:
      meeting.end_early(argv[1:], *ending_of(error))
    status = say_ending(error, where)
    if not notebook:
      sys.exit(status)
  except Exception:
    if hosts.several():
      end_after_fault()
    raise
  finally:
    if notebook:  # a trainer's handlers must not outlive its cell: the kernel has its own interrupt
      for number, handler in handlers.items():
        signal.signal(number, handler)


def say_ending(error: BaseException, where: str) -> int:
  """The one line about what ended a script, on stderr; returns the exit status."""
  status, line = ending_of(error, where)
  sys.stderr.write(line)
  return status


def ending_of(error: BaseException, where: str = "") -> tuple[int, str]:
  """(exit status, line on stderr) of what ended a script."""
  status, line = next(ending for kind, ending in ENDINGS.items() if isinstance(error, kind))
  # One line: logs are searched by lines, and run.sh's last one should say what happened.
  message = where + " ".join(str(error).split("\n"))
  return status, line.format(visible.visible(message))


def end_all_hosts(error: BaseException):
  """Ends this process and those of all other hosts; the lead alone says why."""
  status, line = ending_of(error)
  agreed = isinstance(error, Stopped) and error.agreed
  host_lines.end_together(status, line, agreed)


def end_after_fault():
  """The same for an error that is no ending: a fault of the program, or a host that was lost."""
  # A collective fails where another host dies, and that is then all there is to say.
  time.sleep(host_lines.PATIENCE)
  traceback.print_exc()
  host_lines.end_together(1, traceback.format_exc().strip().splitlines()[-1], agreed=False)


def say(text: str):
  """Prints a line at once. A lost terminal, a dead pipe or a full disk under it must not end a run:
  later lines go nowhere. Of several hosts the lead alone speaks."""
  if hosts.is_lead():
    say_here(text)


def say_here(text: str):
  """The same on whichever host this is."""
  # Text of data and models passes here: its control characters must not steer the terminal.
  try:
    print(visible.visible(text), flush=True)
  except OSError:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process


def progress_bar(total: int, done: int, name: str):
  """tqdm's bar on the lead's terminal. Without one it is off: the trainers print a line a step."""
  from tqdm import tqdm  # rewards.py and run.sh's first second have no bar

  return tqdm(total=total, initial=done, desc=name, disable=None if hosts.is_lead() else True)


def check_settings(known: list[str], given):
  """Refuses a variable that looks like one of run.sh's settings and is none: RECIPIE, recipe."""
  for name in sorted(given):
    # 0.9 lets PATH and HOME pass, and catches one wrong, missing or swapped letter.
    near = difflib.get_close_matches(name.upper(), known, 1, cutoff=0.9)
    if near and name not in known:
      raise InputError(f"{name} is no setting of run.sh; did you mean {near[0]}?")


def read_commands(text: str) -> list[list[str]]:
  """Words that end in NUL, an empty word after each command: "a.py\\0--x=1\\0\\0" → [["a.py", …]].

  NUL is the one character that no word of a command line can hold.
  """
  commands = [command.strip("\0").split("\0") for command in text.split("\0\0")]
  return [words for words in commands if words != [""]]


def check_commands(commands: list[list[str]]):
  """Checks the flags of several commands; a script that refuses its flags ends this process with
  its own line.
  """
  for words in commands:
    sys.argv = [*words, CHECK_ONLY]
    runpy.run_path(words[0], run_name="__main__")  # ends in `launch`


if __name__ == "__main__":
  sys.path.insert(0, "")
  asked = read_commands(sys.stdin.read())
  try:
    check_settings(sys.argv[1:], os.environ)
    size = run_size.ask(asked)  # before the flags: the scripts take seconds to import
  except InputError as refusal:
    sys.exit(say_ending(refusal, ""))
  check_commands(asked)
  if size:
    say(f"run.sh: {size}")
