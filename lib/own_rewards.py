"""--rewards, read: `my_reward.py:score=0.5,multi_domain` adds a function of one's own to a system.

The function has the form that TRL's trainers call, so one written for TRL works as it stands:

  def score(prompts, completions, **columns):  # or what it reads: (completions, answer)
    return [float("therefore" in text) for text in completions]

In reading order: `read_terms` splits the flag, `make_functions` makes the reward functions of all
its terms, `load` finds one's own in its file, `checked` says in one line what is wrong with a call.
"""

import collections
import functools
import hashlib
import importlib.util
import inspect
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

from lib.errors import InputError

COLUMNS = ("domain", "question", "answer", "metadata")  # beside prompts and completions


class Term(NamedTuple):
  """One part of --rewards: a reward system's name, or a function in a file."""

  name: str  # of the system or of the function
  path: str  # of the file; empty: a system
  weight: float  # factor on every component

  @property
  def label(self) -> str:
    return f"{self.path}:{self.name}" if self.path else self.name


def read_terms(value: str) -> list[Term]:
  """ "my.py:score=0.5,multi_domain" → the function at half weight, and the system at its own.

  Whether a system of that name exists is for the caller to check, which knows them.
  """
  return [read_term(part.strip()) for part in value.split(",")]


def read_term(part: str) -> Term:
  # A path may hold "=" and ":", so the last .py: ends it.
  in_file = re.fullmatch(r"(?P<path>.+\.py):(?P<name>[^:=]*)(=(?P<weight>.*))?", part)
  system = re.fullmatch(r"(?P<name>\w+)(=(?P<weight>.*))?", part)
  match = in_file or system
  if not match or (in_file and not match["name"].isidentifier()):
    raise InputError(
      f"--rewards has {part!r}; expected a reward system's name or FILE.py:FUNCTION, "
      "each with =WEIGHT where it counts more or less than once"
    )
  # The shell expands ~ only at the start of a word, not after --rewards=.
  path = os.path.expanduser(match["path"]) if in_file else ""
  return Term(match["name"], path, read_weight(match["weight"], part))


def read_weight(text: str | None, part: str) -> float:
  if text is None:
    return 1.0
  try:
    weight = float(text)
  except ValueError:
    weight = math.nan
  # NaN fails this too, as any comparison with it is False.
  if not 0 < weight < math.inf:
    raise InputError(
      f"--rewards has {part!r} with the weight {text!r}; expected a number above 0 "
      "(a penalty is a function that returns values below 0)"
    )
  return weight


def system_names(value: str) -> list[str]:
  """The reward systems in a --rewards value: "my.py:score,curriculum" → ["curriculum"]."""
  return [term.name for term in read_terms(value) if not term.path]


def digests(value: str) -> dict[str, str]:
  """Fingerprints the files that --rewards names: a run that resumes must find them as they were.

  {"rewards": 16 hex digits of the flag and the files}, or {} without files.
  """
  # By content and not by date: a copied file is the same reward, an edited one is not.
  contents = [pathlib.Path(term.path).read_bytes() for term in read_terms(value) if term.path]
  if not contents:
    return {}
  # The zero byte keeps what ends one file from passing for the start of the next.
  return {"rewards": hashlib.sha256(b"\0".join([value.encode(), *contents])).hexdigest()[:16]}


def make_functions(value: str, systems: dict[str, Callable], options) -> list[Callable]:
  """The reward functions of all terms, weighted; systems: name → function(options) -> list.

  Names are those of metrics, so no two may be alike: `a.py:score,b.py:score` gives "a.score" and
  "b.score".
  """
  parts = []  # (what to put before a name, weight, function)
  for term in read_terms(value):
    if not term.path and term.name not in systems:
      raise InputError(
        f"rewards {term.name!r} is unknown; valid: {', '.join(systems)}, "
        "or your own as FILE.py:FUNCTION"
      )
    # A file gives one component, a system several.
    functions = [load(term)] if term.path else systems[term.name](options)
    prefix = pathlib.Path(term.path).stem or term.name
    parts += [(prefix, term.weight, function) for function in functions]
  # Only names that two parts share get a prefix: a system's metrics keep theirs.
  shared = collections.Counter(function.__name__ for _, _, function in parts)
  made = {}
  for prefix, weight, function in parts:
    name = function.__name__ if shared[function.__name__] == 1 else f"{prefix}.{function.__name__}"
    if name in made:
      raise InputError(f"--rewards={value} names {name} twice; give it once, with =WEIGHT")
    made[name] = weighted(function, weight, name)
  return list(made.values())


def weighted(function: Callable, weight: float, name: str) -> Callable:
  """The function under another name, its values and its range times the weight."""
  # The common case stays the very function: its values must not change by a rounding.
  if weight == 1.0 and name == function.__name__:
    return function

  @functools.wraps(function)  # keeps its advice
  def reward(prompts, completions, **columns):
    # Every component of a term is scaled, so "curriculum=0.5" halves its sum.
    return [weight * value for value in function(prompts, completions, **columns)]

  # A weight is above 0, so low stays below high.
  low, high = function.range
  reward.__name__ = reward.__qualname__ = name
  reward.range = (weight * low, weight * high)
  return reward


def load(term: Term) -> Callable:
  """The function that a term names, checked at every call."""
  return checked(load_function(term.path, term.name), term.label)


def load_function(path: str, name: str) -> Callable:
  """The function `name` of the file `path`; what is not there is refused in one line."""
  if not os.path.isfile(path):
    raise InputError(
      f"{path} does not exist (looked for from {os.getcwd()}); expected FILE.py:FUNCTION"
    )
  # The absolute path: a later call from another folder finds the same module.
  module = load_module(os.path.abspath(path), pathlib.Path(path).read_bytes())
  function = getattr(module, name, None)
  if not callable(function):
    # A mistyped name is the likely cause, so the error lists those to choose from.
    own = [key for key, value in vars(module).items() if inspect.isfunction(value)]
    raise InputError(f"{path} has no function {name!r}; its functions: {', '.join(own) or 'none'}")
  return function


@functools.lru_cache(maxsize=32)
def load_module(path: str, content: bytes):
  """The file as a module, run once for each content it has had: an edited file is a new module.

  Its folder goes to the end of the search path, so that it may import what lies beside it.
  """
  # The digest keeps a user's math.py from replacing Python's, and old from new content.
  name = f"own_{pathlib.Path(path).stem}_{hashlib.sha256(content).hexdigest()[:8]}"
  module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path))
  sys.modules[name] = module  # dataclasses and pickle look a class's module up by its name
  # At the end and not the front: a file beside it must not hide an installed package.
  if os.path.dirname(path) not in sys.path:
    sys.path.append(os.path.dirname(path))
  try:
    # What was read is what runs: an import by path could find an older compiled file beside it.
    exec(compile(content, path, "exec"), vars(module))
  # Whatever a user's file raises; one that calls sys.exit() would end this script as if all were
  # well.
  except (Exception, SystemExit) as error:
    del sys.modules[name]
    raise InputError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
  return module


def checked(function: Callable, label: str) -> Callable:
  """`function` as f(prompts, completions, **columns) -> list of floats; a failure is an InputError.

  It gets the columns that it names; what is no column of ours is looked for in the rows' metadata.
  None as a value pays 0: in TRL it says that the reward does not apply to the row.
  """

  @functools.wraps(function)
  def reward(prompts, completions, **columns):
    # By name, as in TRL, so the order of the function's parameters is free.
    given = {"prompts": prompts, "completions": completions, **columns}
    arguments = asked_for(function, given, label)
    try:
      values = call(function, arguments)
    except Exception as error:
      # Said by row: of a batch of 64 completions nobody guesses which one it was.
      place = failing_row(function, arguments)
      raise InputError(f"{label} raised {type(error).__name__}: {error} at {place}") from error
    return read_values(values, completions, label)

  reward.__name__ = getattr(function, "__name__", label)
  # Without a stated range, `explain` cannot say what was missing and says nothing.
  reward.range = getattr(function, "range", (-math.inf, math.inf))
  return reward


def call(function: Callable, arguments: dict):
  """The lists are copies: a function that sorts its completions must not sort another's."""
  return function(**{name: list(values) for name, values in arguments.items()})


def asked_for(function: Callable, given: dict, label: str) -> dict:
  """What of `given` the function's signature takes, and from the metadata what else it names."""
  try:
    parameters = inspect.signature(function).parameters.values()
  except ValueError:  # some functions written in C have no signature
    return given
  # With **columns it gets all that there is, as in TRL; else what it names and no more.
  if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
    arguments = dict(given)
  else:
    names = {parameter.name for parameter in parameters}
    arguments = {name: values for name, values in given.items() if name in names}
  for parameter in parameters:
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    if named and parameter.default is parameter.empty and parameter.name not in given:
      # Only what it cannot do without: a parameter with a default keeps that.
      arguments[parameter.name] = metadata_column(parameter.name, given, label)
  return arguments


def metadata_column(name: str, given: dict, label: str) -> list:
  """One key of every row's metadata, None where a row lacks it; refused where no row has it."""
  rows = []
  for text in given.get("metadata") or []:
    # Training hands metadata on as JSON text, a notebook as dicts.
    row = json.loads(text or "{}") if isinstance(text, str | None) else text
    rows.append(row if isinstance(row, dict) else {})
  # In some rows is fine, other domains lack the key; in none it is a mistyped name.
  if not any(name in row for row in rows):
    raise InputError(
      f"{label} asks for the column {name!r}; there are {', '.join(given)} and the keys of the "
      "rows' metadata"
    )
  return [row.get(name) for row in rows]


def failing_row(function: Callable, arguments: dict) -> str:
  """Which row a call fails on, found by asking about one at a time."""
  # Any argument will do: all have one entry per completion.
  count = len(next(iter(arguments.values()), []))
  for i in range(count):
    # Lists of one, as the function reads lists.
    row = {name: values[i : i + 1] for name, values in arguments.items()}
    try:
      call(function, row)
    except Exception:
      completion = str(row.get("completions", [""])[0])
      return f"row {i + 1} of {count}, completion {completion[:40]!r}"
  return f"a batch of {count} rows, though at no single one"


def read_values(values, completions: list, label: str) -> list[float]:
  """A function's return as floats, one per completion, all finite."""
  count = len(completions)
  try:
    # A NumPy array or a generator is as good as a list.
    values = list(values)
  except TypeError:
    raise InputError(
      f"{label} returned {values!r:.60}; expected a list of {count} floats, one per completion"
    ) from None
  # A short list would pay some completions for the text of others.
  if len(values) != count:
    raise InputError(
      f"{label} returned {len(values)} values for {count} completions; expected one per completion"
    )
  floats = []
  for i, value in enumerate(values):
    try:
      # True and NumPy's numbers become floats here: the trainer and JSON want plain ones.
      number = 0.0 if value is None else float(value)
    except (TypeError, ValueError):
      number = math.nan
    # One NaN would spread by the group's mean to every advantage, and from there to all weights.
    if not math.isfinite(number):
      raise InputError(
        f"{label} returned {value!r:.60} at row {i + 1} of {count}, completion "
        f"{str(completions[i])[:40]!r}; expected a finite number"
      )
    floats.append(number)
  return floats
