"""The answer's process: runs the code of an answer and does with it what the judge asks. It never
sees a test.

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
FENCE = re.compile(
  r"```[ \t]*([A-Za-z0-9_+.-]*)[^\n`]*\n(.*?)(?:^[ \t]*```|```[ \t]*\r?$|\Z)", re.S | re.M
)


def extract(text, names=()):
  """The program in an answer's text: its fenced Python blocks up to the last one that defines one
  of `names`, or all of it.

  The blocks before that count if they define anything (helpers, imports, constants); those after it
  are usage and do not.
  """
  text = text.replace("\r\n", "\n").lstrip("\ufeff")
  blocks = [
    textwrap.dedent(body)
    for language, body in FENCE.findall(text)
    if language.lower() in ("", "python", "py", "python3")
  ]
  if not blocks or parsed(text).body:
    return text  # no fence, or it stands inside a string or a comment of a program
  defined = [definitions(parsed(block).body) for block in blocks]
  hits = [i for i, found in enumerate(defined) if found.intersection(names)]
  if not hits:
    hits = [i for i, found in enumerate(defined) if found]
  last = hits[-1] if hits else len(blocks) - 1
  return "\n".join(blocks[i] for i in range(last + 1) if defined[i] or i == last)


def parsed(code):
  """The syntax tree, empty where there is none (also for source that is too deep or holds a NUL or
  a surrogate).
  """
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
      found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
      names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
      found |= {n.id for n in names if isinstance(n.ctx, ast.Store)}
  return found


def library_object(path):
  """`len`, `operator.add`, `collections.OrderedDict`: this process's own, by the name that the
  judge gave.
  """
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
    sys.stdout = io.TextIOWrapper(io.BytesIO(), "utf-8", "replace", write_through=True)
    self.printed = sys.stdout.buffer

  def load(self, text, names, given, errors):
    """Runs the answer. Returns those of `names` that it defines, and the classes among them: {name:
    names of its bases}.

    `given` are classes that the tests define: the answer may use them as if they stood above it.
    Those of `errors` ({name: base}) are exceptions, of which real classes stand here, as `except`
    takes no other.
    """
    random.seed(text)  # of its own: the judge was forked from the same process, in the same state
    for name, base in errors.items():
      self.known[name] = type(name, (self.known.get(base, Exception),), {"__module__": "tests"})
      given[name] = self.known[name]
    module = sys.modules["solution"] = types.ModuleType("solution")
    module.__dict__.update(given)
    program = extract(text, names)
    exec(compile(program, "<solution>", "exec", dont_inherit=True), module.__dict__)
    found = {name: module.__dict__[name] for name in names if name in module.__dict__}
    found = {name: value for name, value in found.items() if value is not given.get(name)}
    classes = {name: value for name, value in found.items() if isinstance(value, type)}
    self.classes = tuple(classes.values())
    bases = {name: [base.__name__ for base in kind.__mro__] for name, kind in classes.items()}
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
  """Marks a value that stays here and gets a number, though it may be a built-in type (f = int) or
  a kind of plain data.
  """

  def __init__(self, value):
    self.value = value


def finish(coroutine):
  import asyncio

  return asyncio.run(coroutine)


def plain(value):
  """The data that an object of a subclass of list, int, ... holds."""
  for base in type(value).__mro__:
    if base in data.KINDS:
      return data.KINDS[base].put_together(data.KINDS[base].take_apart(value))
  raise TypeError("not plain data")


def subclass(base, name, others, members):
  """A class of the tests that inherits from one of the answer's; its methods are the tests'
  functions.
  """
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
