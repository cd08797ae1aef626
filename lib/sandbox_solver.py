"""The answer's process: runs an answer's code and does with it what the judge asks.

It never sees a test.

Whatever happens here is the answer's to decide: it may patch this very module, forge messages, or
die. Nothing in this file is a protection; the protections are the lockdown around it and the
judge's distrust of what comes out (sandbox_judge).

  extract  the program in an answer's text
  Solver   the answer's end of the conversation
  solve    the process: loads the answer when told to, then serves until it is killed
"""

import ast
import enum
import functools
import importlib
import io
import operator
import random
import re
import sys
import textwrap
import types

from lib import sandbox_data as data
from lib import sandbox_remote as remote
from lib import sandbox_wire as wire

MAX_PRINTED = 1 << 20  # bytes of one call's output that reach the tests
IMPORTS = (ast.Import, ast.ImportFrom)
# ```python\ncode\n``` → ("python", "code\n"). A response that was cut short has no closing fence,
# so the end of the text closes one, too.
FENCE = re.compile(
  r"(?P<fence>```|~~~)[ \t]*(?P<language>[A-Za-z0-9_+.-]*)[^\n`]*\n"
  r"(?P<body>.*?)(?:^[ \t]*(?P=fence)|(?P=fence)[ \t]*\r?$|\Z)",
  re.S | re.M,
)


def extract(text, names=()):
  """The program in an answer's text: its fenced Python blocks, or all of it where there are none.

  The last block is the one that defines one of `names`. Those before it count if they define
  anything (helpers, imports, constants); those after it are usage and do not.
  """
  # As Windows writes a text: the byte order mark in front is no Python.
  text = text.replace("\r\n", "\n").lstrip("\ufeff")
  blocks = [
    # A block in a Markdown list is indented as a whole.
    textwrap.dedent(block["body"])
    for block in FENCE.finditer(text)
    if block["language"].lower() in ("", "python", "py", "python3")
  ]
  if not blocks or parsed(text).body:
    return text  # no fence, or it stands inside a string or a comment of a program
  defined = [definitions(parsed(block).body) for block in blocks]
  # The last definition is the model's last word: "a first try … a better one".
  hits = [i for i, found in enumerate(defined) if found.intersection(names)]
  if not hits:
    hits = [i for i, found in enumerate(defined) if found]
  # Nothing defined anywhere: only the last block can be the answer.
  last = hits[-1] if hits else len(blocks) - 1
  return "\n".join(blocks[i] for i in range(last + 1) if defined[i] or i == last)


def parsed(code):
  """The syntax tree; an empty one for text that is not Python, too deep, or holds a NUL."""
  try:
    return ast.parse(code)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return ast.Module([], [])


def definitions(statements):
  """Names that the statements bind."""
  found = set()
  for node in statements:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
      found.add(node.name)
    elif isinstance(node, IMPORTS):
      # `import os.path` binds `os`.
      found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
      # In `a, b[i] = 1, 2` only a is bound: b is loaded.
      names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
      found |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
  return found


def library_object(path):
  """This process's own `len`, `operator.add` or `collections.OrderedDict`, by [module, name]."""
  module, name = path
  return (
    operator.attrgetter(name)(importlib.import_module(module))
    if name
    else importlib.import_module(module)
  )


def default_dict(parts):
  import collections

  factory, pairs = parts
  return collections.defaultdict(factory, pairs)


def partial(parts):
  function, args, kwargs = parts
  return functools.partial(function, *args, **kwargs)


def reduced(parts):
  """An object of the library as copyreg describes it: what makes it, and from what."""
  make, args = parts
  return make(*args)


# Beside plain data the judge also sends these, because it trusts itself. The other way they would
# be a danger.
FROM_JUDGE = {
  "library": library_object,
  "defaultdict": default_dict,
  "partial": partial,
  "reduced": reduced,
}


class Solver(wire.Peer):
  """The answer's end. It grants everything; its Remotes are objects of the tests."""

  def __init__(self, fd):
    super().__init__(fd)
    self.shared.append(self.load)  # number 0: what the judge asks for first
    self.classes = ()  # the answer's classes that the tests ask for
    self.known = dict(data.ERRORS)  # exceptions by name
    # Into memory, as a process without files has nowhere to print; `send` tells the judge.
    sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", "replace", write_through=True)
    self.printed = sys.stdout.buffer

  def load(self, text, names, given, errors):
    """Runs the answer. Returns what it defines of `names`, and {class in it: its bases' names}.

    `given` are classes that the tests define: the answer may use them as if they stood above it.
    Those of `errors` ({name: base}) are exceptions, of which real classes stand here, as `except`
    takes no other.
    """
    random.seed(text)  # of its own: the judge was forked from the same process, in the same state
    for name, base in errors.items():
      self.known[name] = type(name, (self.known.get(base, Exception),), {"__module__": "tests"})
      given[name] = self.known[name]
    # In sys.modules, where dataclasses and pickle look a class's module up by its name.
    module = sys.modules["solution"] = types.ModuleType("solution")
    module.__dict__.update(given)
    program = extract(text, names)
    # `dont_inherit`: this file's own __future__ statements are not the answer's.
    exec(compile(program, "<solution>", "exec", dont_inherit=True), module.__dict__)
    found = {name: module.__dict__[name] for name in names if name in module.__dict__}
    # What was lent to the answer and left as it was is no definition of its own.
    found = {name: value for name, value in found.items() if value is not given.get(name)}
    classes = {name: value for name, value in found.items() if isinstance(value, type)}
    self.classes = tuple(classes.values())
    # The judge makes stand-ins for exceptions of them, so that `except Base` works in the tests.
    bases = {name: [base.__name__ for base in kind.__mro__] for name, kind in classes.items()}
    # A callable is asked over here, whatever it is; `LIMIT = 3` crosses as the number.
    values = {name: Own(value) if callable(value) else value for name, value in found.items()}
    return [values, bases]

  def perform(self, op, target, args, kwargs):
    value = OPERATIONS[op](target, *args, **kwargs)
    # `Stack()` where Stack is a list with methods: as plain data it would lose them
    if type(value) in self.classes and isinstance(target, type):
      return Own(value)
    return value

  def adopt(self, number, about, trust):
    return self.remotes.setdefault(number, TestObject(self, number, about))

  def revive(self, described):
    return data.revive(described, self.known)

  def encode_foreign(self, value):
    if type(value) is Own:
      return self.encode_object(value.value)
    # a member of an IntEnum that the tests ask for is more than its number
    if type(value) in self.classes and isinstance(value, enum.Enum):
      return self.encode_object(value)
    return None

  def send(self, message):
    """Also tells what was printed: the tests may have redirected their own stdout to see it."""
    # Cut: a loop that prints would else make a message too large to send.
    printed = self.printed.getvalue()[:MAX_PRINTED]
    if printed:
      message["printed"] = printed.decode("utf-8", "replace")
      self.printed.seek(0)
      self.printed.truncate()
    super().send(message)

  def decode_foreign(self, tag, body):
    return FROM_JUDGE[tag](body)

  def about(self, value):
    if isinstance(value, type):
      return "class"
    if isinstance(value, types.CoroutineType):
      return "coroutine"
    # A list with methods of its own: the judge may compare what it holds.
    if any(kind in data.KINDS for kind in type(value).__mro__):
      return "data"
    return ""


class TestObject(remote.Remote):
  # An object of the tests. Classes are compared and hashed here: annotations (`Optional[ListNode]`,
  # `ListNode | None`) do that before the tests have defined the class.
  __slots__ = ()
  __doc__ = remote.Remote.__dict__["__doc__"]
  __module__ = remote.Remote.__dict__["__module__"]

  def __hash__(self):
    return hash((TestObject, self._number)) if self._about == "class" else self._ask("hash")

  def __eq__(self, other):
    if other is self or self._about == "class":
      return other is self
    return self._ask("__eq__", other)

  def __ne__(self, other):
    return not self == other

  def __or__(self, other):
    return self if self._about == "class" else self._ask("__or__", other)

  def __ror__(self, other):
    return self if self._about == "class" else self._ask("__ror__", other)


class Own:
  """Marks a value that stays here under a number, though it may be plain data or int itself."""

  def __init__(self, value):
    self.value = value


def finish(coroutine):
  import asyncio

  return asyncio.run(coroutine)


def plain(value):
  """The data that an object of a subclass of list, int, ... holds."""
  # By the base's own methods, as a subclass may claim to hold anything.
  for base in type(value).__mro__:
    if base in data.KINDS:
      return data.KINDS[base].put_together(data.KINDS[base].take_apart(value))
  raise TypeError("not plain data")


def subclass(base, name, others, members):
  """A class of the tests that inherits from one of the answer's; its methods are the tests'."""
  own = {key: as_method(v) if remote.is_remote(v) else v for key, v in members.items()}
  return type(base)(name, (base, *others), own)


def as_method(function):
  def method(self, *args, **kwargs):
    return function(self, *args, **kwargs)

  return method


OPERATIONS = {
  **remote.OPERATIONS,
  "finish": finish,
  "plain": plain,
  "subclass": subclass,
  "super": super,
}


def solve(fd):
  """Serves the judge until killed."""
  peer = Solver(fd)
  while True:
    peer.serve(wire.receive(peer.reader))
