"""The tests' process: runs a job's tests, asks the answer's process, says what passed.

Asserts, builtins and expected values exist only here. The answer gets what the tests hand it, and
what it may do with that is `Judge.perform`'s to decide: objects of the tests' own classes (tree
nodes, say) are open to it as anywhere in Python, functions can be called, and nothing leads to
Python's insides (`__globals__`, frames) or to a builtin that runs code here.
"""

import builtins
import collections
import copy
import functools
import io
import json
import operator
import os
import random
import re
import sys
import types
import warnings

from lib import sandbox_data as data
from lib import sandbox_names as names
from lib import sandbox_trust as trust
from lib import sandbox_wire as wire
from lib.sandbox_remote import OPERATIONS

# Objects of the library that the tests may lend to the answer, attributes and all.
LENDABLE = {io.StringIO, io.BytesIO, types.SimpleNamespace, re.Match}
# Objects of the library that hold nothing but what they are made of: the answer gets its own, by
# `__reduce__`.
REBUILT = {operator.itemgetter, operator.attrgetter, operator.methodcaller}
# What a mock has beside its children; the rest of it checks or changes what it recorded.
OF_MOCKS = {"return_value", "called", "call_count"}
PLAIN = {bool, int, float, str, *data.KINDS}
OF_FUNCTIONS = {"__name__", "__qualname__", "__doc__", "__module__"}
# `__module__` of what a job's own texts define: see `space` below and `reference`.
OWN_MODULES = {"tests", "reference"}


class Given:
  """A class of the tests that the answer may use by name, perhaps before it is defined."""

  def __init__(self, name):
    self.name = name


class Judge(wire.Peer):
  """The tests' end of the conversation."""

  def __init__(self, fd, job, plan):
    super().__init__(fd)
    self.job = job
    self.plan = plan
    self.rules = trust.Rules(plan.attributes, plan.constructors)
    self.supplied = {}  # asked name: what stands for it in the tests
    self.space = {"__name__": "tests"}  # where the tests run
    self.errors = data.ERRORS
    self.changes = []  # (object, attribute, what it was) of the tests', in the call under way
    self.failed_inside = False  # an assertion in a function that the tests handed to the answer
    self.plain_values = {}  # number of an answer's object -> the data in it, if that cannot change

  def own(self, number):
    value = self.shared[number]
    # Looked up when it is used: `class Node` may stand in the setup, which runs after the answer.
    if type(value) is not Given:
      return value
    if value.name not in self.space:
      raise NameError(f"name {value.name!r} is not defined")
    return self.space[value.name]

  def adopt(self, number, about, trusted):
    # A list, say, could not be a key, and True would pass for 1.
    if type(number) is not int:
      raise ValueError("no number of an object")
    # One object a number, so that `is` holds and trust once raised stays raised.
    if number not in self.remotes:
      self.remotes[number] = trust.AnswerObject(self, number, about)
    remote = self.remotes[number]._trusted(trusted)
    return awaited(remote) if about == "coroutine" else remote

  def about(self, value):
    return "class" if issubclass(type(value), type) or type(value) is Given else ""

  def revive(self, described):
    """Exceptions of the tests' own classes, of stand-ins for the answer's, and of Python's."""
    own = {name: self.space.get(name) for name in self.plan.errors}
    own = {name: kind for name, kind in own.items() if is_error(kind)}
    return data.revive(described, {**self.errors, **own})

  def apply_effects(self, message):
    for number, name, _ in message.get("views", ()):
      self.note_change(self.own(number), name)
    super().apply_effects(message)
    if isinstance(message.get("printed"), str):
      sys.stdout.write(message["printed"])

  @functools.cached_property
  def reference(self):
    """What the reference solution defines, run here: its helpers serve the tests."""
    space = {"__name__": "reference"}
    # Only when something asks for it: most tests use the asked function alone.
    exec(compile(self.job["reference"], "<reference>", "exec", dont_inherit=True), space)
    return space

  def reference_of(self, remote):
    """The reference's function of the same name as one of the answer's; None for none."""
    name = next((n for n, value in self.supplied.items() if value is remote), None)
    return self.reference.get(name) if self.plan.classes is not None else None

  def expects_changes(self, remote, args, kwargs):
    """Whether the reference, too, changes these arguments and returns a value."""
    function = self.reference_of(remote)
    if function is None:
      return False
    try:
      # On copies: what the tests hold has to stay as it is until the answer's own change is known.
      tried = copy.deepcopy([list(args), kwargs])
      before = snapshot(tried)
      function(*tried[0], **tried[1])
      return snapshot(tried) != before
    except Exception:  # it does not take what this test hands over
      return False

  def note_change(self, target, name):
    if not hasattr(target, "__dict__"):
      return
    was = vars(target).get(name)
    # A container is changed in place, so a copy must remember it.
    self.changes.append((target, name, copy.copy(was) if data.is_mutable(was) else was))

  def returned(self, reply, remote, args, kwargs, trust):
    value = super().returned(reply, remote, args, kwargs, trust)
    # As with lists: `total(root)` could prune the tree, return 0, and pass `== slow_total(root)`.
    is_data = type(value) in PLAIN
    if self.changes and is_data and self.reference_of(remote) is not None:
      changed = [(target, name, vars(target).get(name)) for target, name, _ in self.changes]
      restore(reversed(self.changes))
      if self.expects_changes(remote, args, kwargs):
        restore(changed)
    self.changes = []
    return value

  # what the answer may do with the tests' objects
  def perform(self, op, target, args, kwargs):
    # A callback, such as a key that the tests passed in. Only what they handed over has a number.
    if op == "call":
      try:
        return target(*args, **kwargs)
      except AssertionError:
        # A decorator of the answer's may swallow it on its way back to the test.
        self.failed_inside = True
        raise
    if op in ("iter", "next"):
      return OPERATIONS[op](target)
    if op == "getattr" and args[0] in OF_FUNCTIONS and callable(target):
      return getattr(target, *args)
    if op == "getattr" and is_mock(target) and is_childs(target, args[0]):
      return getattr(target, *args)
    # Anything else, such as a module or a frame, would lead to the expected values.
    if not is_open(target):
      raise AttributeError(
        f"{type(target).__name__} object of the tests has no {op} for the answer"
      )
    if op in ("getattr", "setattr", "delattr"):
      # Dunder names lead from any object to all classes of the process.
      if not isinstance(args[0], str) or args[0].startswith("__"):
        raise AttributeError(args[0])
      # `node.is_equal = lambda *x: True` would have the answer judge itself
      replaces = isinstance(target, type) or callable(getattr(type(target), args[0], None))
      if op != "getattr" and replaces:
        raise AttributeError(f"{args[0]} is the tests' to define")
      if op != "getattr":
        self.note_change(target, args[0])
    return OPERATIONS[op](target, *args, **kwargs)

  # what travels beside plain data: the judge may be believed, so its library objects go by name and
  # run over there
  def encode_foreign(self, value):
    # The library's functions by name: asked through a number, they would run here, in the judge.
    kind = type(value)
    if kind is collections.defaultdict:
      parts = [value.default_factory, data.KINDS[dict].take_apart(value)]
      return {"t": "defaultdict", "v": self.encode(parts)}
    if kind is functools.partial:
      return {"t": "partial", "v": self.encode([value.func, list(value.args), value.keywords])}
    if kind in REBUILT:
      return {"t": "reduced", "v": self.encode(list(value.__reduce__()))}
    if callable(value) or kind is types.ModuleType:
      path = library_path(value)
      if path:
        return {"t": "library", "v": path}
    return None


def restore(changes):
  for target, name, value in changes:
    vars(target)[name] = value


def snapshot(value, seen=None):
  """What an object of the tests' holds, and the objects in it: equal before and after a call that
  changes none of them.
  """
  seen = {} if seen is None else seen
  if id(value) in seen:
    return seen[id(value)]  # as a number: lists may be cyclic
  if is_open(value) and hasattr(value, "__dict__"):
    seen[id(value)] = len(seen)
    return [(name, snapshot(part, seen)) for name, part in vars(value).items()]
  if type(value) is tuple or data.is_mutable(value):
    seen[id(value)] = len(seen)
    parts = value.items() if isinstance(value, dict) else value
    return [snapshot(part, seen) for part in parts]
  return value


def library_path(value):
  """[module, name] of a function, type or module of the standard library, else None."""
  if type(value) is types.ModuleType:
    module, name = value.__name__, ""
  elif trust.is_answers(value):
    return None
  else:
    owner = getattr(value, "__objclass__", value)  # the type of a method: `str.upper`
    module, name = getattr(owner, "__module__", None), getattr(value, "__qualname__", None)
  if not isinstance(module, str) or module.split(".")[0] not in sys.stdlib_module_names:
    return None
  if not name:
    return [module, ""] if type(value) is types.ModuleType else None
  try:
    # Only what is found again under its name: a function that merely calls itself math.sqrt is not.
    same = operator.attrgetter(name)(sys.modules[module]) is value
  except (KeyError, AttributeError):
    return None
  return [module, name] if same else None


def is_error(kind):
  if not issubclass(type(kind), type) or not issubclass(kind, Exception):
    return False
  # StopIteration out of a callback would end a loop of the tests early, as if all had passed.
  return kind.__module__ in OWN_MODULES and not issubclass(kind, StopIteration)


def is_mock(target):
  mock = sys.modules.get("unittest.mock")
  return mock is not None and issubclass(type(target), mock.NonCallableMock)


def is_childs(mock, name):
  """Whether `name` is a child of a mock, which records its calls, and none of its own methods."""
  return name in OF_MOCKS or not (name.startswith("_") or hasattr(type(mock), name))


def is_open(target):
  """Whether the answer may use an object freely: one of the tests' classes, or such a class."""
  kind = target if isinstance(target, type) else type(target)
  return kind in LENDABLE or getattr(kind, "__module__", None) in OWN_MODULES


async def awaited(remote):
  """An answer's coroutine, for `asyncio.run(f(3))`: awaited here, it runs to its end over there."""
  return remote._ask("finish")


# A job, from its arrival to its verdict.
def judge(fd, client_fd):
  """Reads a job, has the answer loaded, runs its tests, sends [results, error] to the client."""
  # `assert (4).__eq__(f(2))` would pass with any object.
  warnings.filterwarnings("error", "NotImplemented should not be used")
  client = os.fdopen(client_fd, "rb")  # kept: it closes the descriptor when it goes
  job = wire.receive(client)
  results, error = [], None
  try:
    peer = prepared(fd, job)
    for test in job["tests"]:
      try:
        run_test(peer, test)
        # A test may swallow any exception, also that the answer's process is dead.
        results.append(not peer.gone)
      except BaseException as failure:
        results.append(False)
        error = error or brief(failure)
  except BaseException as failure:  # also SystemExit from setup code: the client is owed an answer
    error = "before the tests: " + brief(failure)
  results += [False] * (len(job["tests"]) - len(results))
  os.write(client_fd, wire.pack([results, error]))


def prepared(fd, job):
  """The Judge with all names in place: imports, helpers, the answer's, what the setup makes."""
  # What a test draws must be no secret between runs, and one to the answer: it never sees the
  # tests.
  random.seed(json.dumps([job["setup"], job["tests"], job["reference"]]))
  plan = names.plan(job["setup"], job["tests"], job["reference"], job["entry_point"])
  peer = Judge(fd, job, plan)
  space = peer.space
  exec("\n".join(plan.imports), space)
  # Object 0 is the solver's `load`.
  loader = trust.AnswerObject(peer, 0, "")
  given = {name: Given(name) for name in plan.given}
  # The answer runs now, before the setup: what the setup calls of it must be there.
  load = [job["code"], plan.asked, given, plan.errors]
  values, bases = peer.ask("call", loader, load, trust=trust.RESULT)
  peer.supplied = supplied = supply(peer, plan, values, bases)
  # A class that the answer left out, as it mostly does a tree's Node, is the reference's.
  missing = [name for name in plan.given if name not in supplied]
  if plan.helpers or set(missing) & set(plan.classes or ()):
    lent = {*plan.helpers, *missing}.intersection(peer.reference)
    space.update({name: peer.reference[name] for name in lent})
  space.update(supplied)
  exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True), space)
  space.update(supplied)
  space["super"] = trust.tests_super
  space.setdefault("type", trust.TestsType)
  return peer


def supply(peer, plan, values, bases):
  """{asked name: what stands for it in the tests}."""
  supplied = {}
  for name in plan.asked:
    if name in values:
      supplied[name] = values[name]
    elif hasattr(builtins, name) and name not in (plan.classes or ()):
      # `sum` was asked for and is missing: with Python's own sum the tests would pass.
      supplied[name] = None  # no builtin of that name steps in for what the answer lacks
  for name in bases:
    if plan.classes is None or name in plan.classes:
      # Only these build trusted objects; a class that a function returns does not.
      supplied[name]._trusted(trust.OBJECT, makes=True)
  errors = {name: line for name, line in bases.items() if "BaseException" in line}
  # Bases first, so that `except Base` catches what derives from it.
  for name in sorted(errors, key=lambda name: len(errors[name])):
    base = next((peer.errors[b] for b in errors[name][1:] if b in peer.errors), Exception)
    supplied[name] = trust.stand_in(name, (base,), peer)
    peer.errors = peer.errors | {name: supplied[name]}
  return supplied


def run_test(peer, test):
  """Runs one test; it fails by raising."""
  # Compiled when the plan was made; where it was no Python, the second try raises the SyntaxError.
  code = names.compiled(test)
  lost = [name for name in peer.supplied if not callable(peer.space.get(name))]
  if lost:
    # An earlier test bound the answer's name to something else (`area = area(3)`): where this one
    # calls it, it is back.
    for name in names.called_names(names.parsed(test)).intersection(lost):
      peer.space[name] = peer.supplied[name]
  peer.failed_inside = False
  exec(code or compile(test, "<test>", "exec", dont_inherit=True), peer.space)
  if peer.failed_inside:
    raise AssertionError("in a function of the tests that the answer called")


def brief(error):
  """An exception in one printable line: the answer's text in it must not break a log."""
  described = data.describe(error)
  text = " ".join(f"{described['names'][0]}: {described['message']}".split())  # one line
  # Letters beyond ASCII and control characters become escapes: a terminal obeys "\x1b[31m".
  visible = text.encode("ascii", "backslashreplace").decode()
  return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in visible)[:200]
