"""How the two processes of a job talk: plain data travels by value, everything else stays and is
asked.

The answer's process (sandbox_solver) and the tests' process (sandbox_judge) share one socket and no
memory. A message is one line of JSON, never pickle, which would run the sender's code in the
receiver. Either side is a `Peer`:

  encode, decode  a value to JSON and back
  ask             has the other side do one operation with one of its objects, and waits for what
                  came of it
  serve           does what the other side asks; a Peer that waits for a reply serves meanwhile, so
                  callbacks may nest

  judge:  {"op": "call", "on": 1, "args": [3], "kwargs": {}}          solver:  {"value": 9}

An object that is not plain data gets a number. {"t": "mine", "v": 4} is the sender's fourth object,
{"t": "yours", "v": 4} the receiver's; where it does not live, a `Remote` stands for it and forwards
every operator of Python.
"""

import array
import builtins
import collections
import contextlib
import copy
import datetime
import decimal
import fractions
import functools
import ipaddress
import itertools
import json
import keyword
import operator
import os
import pathlib
import re
import threading
import types
import uuid
from typing import NamedTuple

MAX_MESSAGE = 64 << 20  # bytes of one message: a list of ten million small numbers does not fit
MAX_VIEWS = 8  # attributes of the other side whose changes are watched


class Gone(BaseException):
  """The other process died or broke the protocol. Not an Exception: no `except Exception` in a test
  may swallow it.
  """


def pack(message):
  """A message as one line of JSON."""
  line = json.dumps(message).encode() + b"\n"
  if len(line) > MAX_MESSAGE:
    raise ValueError("value too large")
  return line


def receive(stream):
  """The next message; ValueError for anything that is not one: the end of the stream, a line too
  long, no JSON.
  """
  line = stream.readline(MAX_MESSAGE)
  if not line.endswith(b"\n"):
    raise ValueError("cut short or too long")
  return json.loads(line)


class Kind(NamedTuple):
  """How a type of plain data crosses: what its value is made of, and how it is made again."""

  take_apart: types.FunctionType
  put_together: types.FunctionType


def sequence(kind):
  # kind's own iterator, not the value's: a subclass of list may claim any items
  def take_apart(value):
    return list(kind.__iter__(value))

  return Kind(take_apart, kind)


def mapping(kind):
  def take_apart(value):
    return [[key, item] for key, item in dict.items(value)]

  def put_together(pairs):
    return kind(dict(pairs))

  return Kind(take_apart, put_together)


def attributes(kind, *names):
  def take_apart(value):
    return [getattr(value, name) for name in names]

  def put_together(values):
    return kind(*values)

  return Kind(take_apart, put_together)


def hexadecimal(text):
  return int(text, 16)


def array_parts(value):
  return [value.typecode, value.tolist()]


def make_array(parts):
  return array.array(*parts)


# Values of these types are rebuilt on the other side. Each is taken apart by the type's own
# methods, so that a value of a subclass crosses as its plain base: an `int` whose __eq__ always
# says True arrives as an ordinary int.
KINDS = {
  int: Kind(hex, hexadecimal),
  float: Kind(float.__float__, float),
  str: Kind(str.__str__, str),
  complex: attributes(complex, "real", "imag"),
  bytes: Kind(bytes.hex, bytes.fromhex),
  bytearray: Kind(bytearray.hex, bytearray.fromhex),
  list: sequence(list),
  tuple: sequence(tuple),
  set: sequence(set),
  frozenset: sequence(frozenset),
  collections.deque: sequence(collections.deque),
  dict: mapping(dict),
  collections.OrderedDict: mapping(collections.OrderedDict),
  collections.Counter: mapping(collections.Counter),
  range: attributes(range, "start", "stop", "step"),
  slice: attributes(slice, "start", "stop", "step"),
  array.array: Kind(array_parts, make_array),
  decimal.Decimal: Kind(decimal.Decimal.__str__, decimal.Decimal),
  fractions.Fraction: Kind(fractions.Fraction.__str__, fractions.Fraction),
  datetime.timedelta: attributes(datetime.timedelta, "days", "seconds", "microseconds"),
  datetime.datetime: Kind(datetime.datetime.isoformat, datetime.datetime.fromisoformat),
  datetime.date: Kind(datetime.date.isoformat, datetime.date.fromisoformat),
  datetime.time: Kind(datetime.time.isoformat, datetime.time.fromisoformat),
  re.Pattern: attributes(re.compile, "pattern", "flags"),
  pathlib.PurePosixPath: Kind(pathlib.PurePosixPath.__str__, pathlib.PurePosixPath),
  pathlib.PosixPath: Kind(pathlib.PosixPath.__str__, pathlib.PosixPath),
  uuid.UUID: Kind(uuid.UUID.__str__, uuid.UUID),
  ipaddress.IPv4Address: Kind(ipaddress.IPv4Address.__str__, ipaddress.IPv4Address),
  ipaddress.IPv6Address: Kind(ipaddress.IPv6Address.__str__, ipaddress.IPv6Address),
}
MAKE = {kind.__name__: how.put_together for kind, how in KINDS.items()}
MUTABLE = (list, dict, set, bytearray, collections.deque)
FLAT = {str, float, bool, type(None)}  # what JSON carries as it is

# Built-in types that may cross in both directions, as themselves: data and errors. Not `type`,
# `object`, `super` or `property`: with those and a callback that calls what it is given, an answer
# could build an object equal to everything inside the judge.
DATA_TYPES = (
  *(bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict, range),
  type(None),
)
ERRORS = {
  name: kind
  for name, kind in vars(builtins).items()
  if isinstance(kind, type)
  and issubclass(kind, Exception)
  # raised by the answer's f, these would end `all(map(f, ...))` as if every item had passed
  and kind not in (StopIteration, StopAsyncIteration)
}
TYPES = {kind.__name__: kind for kind in DATA_TYPES} | ERRORS


def is_flat(values):
  """Whether JSON carries a list as it is, without a look at each element. Long ints it does not:
  they are slow to print.
  """
  kinds = set(map(type, values))
  if kinds == {int}:
    return min(values) >= -(2**63) and max(values) < 2**63
  return kinds <= FLAT


@functools.lru_cache(64)
def record_type(name, fields):
  """The namedtuple of these fields: a tuple of data that can be asked by name. Its code is made
  from checked names only.
  """
  for word in (name, *fields):
    if not isinstance(word, str) or not word.isidentifier() or keyword.iskeyword(word):
      raise ValueError(f"{word!r} cannot name a field")
  return collections.namedtuple(name, fields)


def is_mutable(value):
  # by type(), as isinstance would ask a Remote for its class
  return issubclass(type(value), MUTABLE)


def refill(old, new):
  """Gives a container the contents of another one of its kind, in place, and its inner containers
  likewise.
  """
  base = next(kind for kind in MUTABLE if isinstance(old, kind))
  if not isinstance(new, base):
    raise TypeError("a container changed its type")
  if base is list and len(old) == len(new):
    for i, (was, now) in enumerate(zip(old, new, strict=True)):
      old[i] = refilled(was, now)
  elif base is list or base is bytearray:
    old[:] = new
  elif base is dict:
    contents = {key: refilled(old.get(key), item) for key, item in new.items()}
    old.clear()
    old.update(contents)
  elif base is set:
    old.clear()
    old.update(new)
  else:
    old.clear()
    old.extend(new)


def refilled(was, now):
  """`now`, but the same object as before if it is still a container of that type: other names of it
  see the change, too.
  """
  if type(was) is type(now) and is_mutable(now):
    refill(was, now)
    return was
  return now


# ------------------------------------------------------------------------------------------------
# operations on an object
def call(function, /, *args, **kwargs):
  return function(*args, **kwargs)


def next_items(iterator):
  """The next item in a list, an empty one at the end: a StopIteration never crosses."""
  return list(itertools.islice(iterator, 1))


def is_instance(kind, value):
  return isinstance(value, kind)


def is_subclass(kind, other):
  return isinstance(other, type) and issubclass(other, kind)


def enter(manager):
  return type(manager).__enter__(manager)


def leave(manager, described):
  error = revive(described) if described else None
  return type(manager).__exit__(manager, type(error) if error else None, error, None)


def reflect(operation):
  def reflected(value, other):
    return operation(other, value)

  return reflected


ARITHMETIC = [
  "add",
  "sub",
  "mul",
  "truediv",
  "floordiv",
  "mod",
  "pow",
  "matmul",
  "and",
  "or",
  "xor",
  "lshift",
  "rshift",
]
BINARY = {f"__{name}__": getattr(operator, f"__{name}__") for name in ARITHMETIC}
REFLECTED = {f"__r{name}__": reflect(BINARY[f"__{name}__"]) for name in ARITHMETIC}
IN_PLACE = {f"__i{name}__": getattr(operator, f"__i{name}__") for name in ARITHMETIC}
UNARY = {
  f"__{name}__": getattr(operator, f"__{name}__") for name in ("neg", "pos", "abs", "invert")
}
COMPARISONS = {
  f"__{name}__": getattr(operator, f"__{name}__") for name in ("eq", "ne", "lt", "le", "gt", "ge")
}
ITEMS = {
  f"__{name}__": getattr(operator, f"__{name}__")
  for name in ("getitem", "setitem", "delitem", "contains")
}
OPERATORS = {**BINARY, **REFLECTED, **IN_PLACE, **UNARY, **COMPARISONS, **ITEMS}
# All that can be asked of an object; what each side grants is its own rule (`perform`).
OPERATIONS = {
  **OPERATORS,
  "call": call,
  "getattr": getattr,
  "setattr": setattr,
  "delattr": delattr,
  "iter": iter,
  "next": next_items,
  "bool": bool,
  "len": len,
  "str": str,
  "repr": repr,
  "format": format,
  "hash": hash,
  "int": int,
  "round": round,
  "reversed": reversed,
  "isinstance": is_instance,
  "issubclass": is_subclass,
  "enter": enter,
  "leave": leave,
  "copy": copy.copy,
  "deepcopy": copy.deepcopy,
}
# Attributes with underscores that tell about a function or class; all others lead to Python's
# insides.
READABLE = {"__name__", "__qualname__", "__doc__", "__module__", "__dict__", "__class__"}


class Remote:
  # An object of the other process. No docstring: `__doc__` is the object's own, as are all names
  # but the slots.
  __slots__ = ("_about", "_number", "_peer")

  def __init__(self, peer, number, about):
    object.__setattr__(self, "_peer", peer)
    object.__setattr__(self, "_number", number)
    object.__setattr__(self, "_about", about)

  def _ask(self, op, /, *args, **kwargs):
    return self._peer.ask(op, self, args, kwargs)

  def __getattr__(self, name):
    if name.startswith("__") and name not in READABLE:
      raise AttributeError(name)
    return self._ask("getattr", name)

  def __setattr__(self, name, value):
    self._ask("setattr", name, value)

  def __delattr__(self, name):
    self._ask("delattr", name)

  def __call__(self, /, *args, **kwargs):
    return self._ask("call", *args, **kwargs)

  def __iter__(self):
    return self._ask("iter")

  def __next__(self):
    for item in self._ask("next"):
      return item
    raise StopIteration

  def __reversed__(self):
    return self._ask("reversed")

  def __bool__(self):
    return self._ask("bool") is True

  def __len__(self):
    return self._ask("len")

  def __str__(self):
    return self._ask("str")

  def __repr__(self):
    return self._ask("repr")

  def __format__(self, spec):
    return self._ask("format", spec)

  def __hash__(self):
    return self._ask("hash")

  def __int__(self):
    return self._ask("int")

  def __round__(self, *digits):
    return self._ask("round", *digits)

  def __instancecheck__(self, value):
    return is_remote(value) and self._ask("isinstance", value) is True

  def __subclasscheck__(self, kind):
    return is_remote(kind) and self._ask("issubclass", kind) is True

  def __enter__(self):
    return self._ask("enter")

  def __exit__(self, kind, error, trace):
    return self._ask("leave", describe(error) if error else None)

  def __copy__(self):
    return self._ask("copy")

  def __deepcopy__(self, memo):
    return self._ask("deepcopy")

  __doc__ = property(operator.methodcaller("__getattr__", "__doc__"))
  __module__ = property(operator.methodcaller("__getattr__", "__module__"))


def is_remote(value):
  # by type(), because `__class__` is the other side's to say
  return issubclass(type(value), Remote)


def forwarded(op):
  def method(self, *args):
    return self._ask(op, *args)

  return method


for _op in OPERATORS:
  setattr(Remote, _op, forwarded(_op))


# ------------------------------------------------------------------------------------------------
# errors
def describe(error):
  """An exception as plain data: the names of its classes, most derived first, its message, its
  arguments if JSON has them.
  """
  names = [str(kind.__name__)[:100] for kind in type(error).__mro__]
  args = BaseException.args.__get__(error)  # whatever the answer's class says `args` is
  try:
    only_text = len(args) == 1 and isinstance(args[0], str)
    message = str(args[0] if only_text else error)[:1000]
  except BaseException:  # an answer's __str__ may raise anything
    message = ""
  if not is_flat(args) or any(type(x) is str and len(x) > 1000 for x in args):
    args = [message]
  return {"names": names, "message": message, "args": list(args)}


def revive(described, known=ERRORS):
  """An exception of the nearest class that is `known`, else a RuntimeError."""
  names, message, args = described["names"], described["message"], described["args"]
  for name in names:
    if name in known:
      with contextlib.suppress(TypeError):  # UnicodeDecodeError needs five arguments
        return known[name](*args)
  return RuntimeError(f"{str(names[0])[:100]}: {str(message)[:1000]}")


# ------------------------------------------------------------------------------------------------
# one end of the conversation
class Peer:
  """One end. `Solver` and `Judge` say what the other may do with their objects (`perform`) and what
  Remotes they make (`adopt`).
  """

  def __init__(self, fd):
    self.fd = fd
    self.reader = os.fdopen(fd, "rb")
    self.gone = False
    self.turn = threading.RLock()  # threads of one side take turns to ask
    self.shared = []  # objects by number; kept alive here, so an id() stays theirs
    self.numbers = {}  # id of a shared object -> number
    self.remotes = {}  # number -> Remote: one each, so that `is` works
    self.views = {}  # (Remote's number, attribute) -> (the container that was read, as it was)

  # what the sides differ in
  def perform(self, op, target, args, kwargs):
    raise NotImplementedError

  def adopt(self, number, about, trust):
    raise NotImplementedError

  def encode_foreign(self, value):
    """How a side sends what is no plain data, if not by number; None: by number."""

  def decode_foreign(self, tag, body):
    raise ValueError(f"unknown tag {tag!r}")

  def revive(self, described):
    return revive(described)

  def expects_changes(self, remote, args, kwargs):
    """Whether a call that returned a value may have changed its arguments as well."""
    return False

  def own(self, number):
    return self.shared[number]

  def about(self, value):
    """What the other side may want to know of an object before it asks."""
    return ""

  # values
  def encode(self, value):
    """JSON for `value`."""
    kind = type(value)
    if kind in FLAT:
      return value
    if kind is int and -(2**63) <= value < 2**63:
      return value
    if kind is list:
      return list(value) if is_flat(value) else [self.encode(x) for x in value]
    if kind is type and TYPES.get(value.__name__) is value:
      return {"t": "type", "v": value.__name__}
    foreign = self.encode_foreign(value)
    if foreign is not None:
      return foreign
    if issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
      parts = [kind.__name__, list(kind._fields), list(tuple.__iter__(value))]
      return {"t": "record", "v": self.encode(parts)}
    for base in kind.__mro__:
      if base in KINDS:
        return {"t": base.__name__, "v": self.encode(KINDS[base].take_apart(value))}
    return self.encode_object(value)

  def encode_object(self, value):
    if is_remote(value):
      return {"t": "yours", "v": value._number}
    if id(value) not in self.numbers:
      self.numbers[id(value)] = len(self.shared)
      self.shared.append(value)
    return {"t": "mine", "v": self.numbers[id(value)], "about": self.about(value)}

  def decode(self, value, trust=None):
    """The inverse; raises on anything malformed. `trust` is for the Remotes in it."""
    if isinstance(value, list):
      if {list, dict}.isdisjoint(map(type, value)):
        return list(value)
      return [self.decode(x, trust) for x in value]
    if not isinstance(value, dict):
      return value
    tag, body = value["t"], value["v"]
    if tag == "yours":
      return self.own(body)
    if tag == "mine":
      return self.adopt(body, value["about"], trust)
    if tag == "type":
      return TYPES[body]
    if tag == "record":
      name, fields, values = self.decode(body, trust)
      return record_type(name, tuple(fields))(*values)
    if tag in MAKE:
      return MAKE[tag](self.decode(body, trust))
    return self.decode_foreign(tag, self.decode(body, trust))

  # messages
  def send(self, message):
    changes = self.changed_views()
    if changes:
      message["views"] = changes
    line = pack(message)
    while line:
      line = line[os.write(self.fd, line) :]

  def changed_views(self):
    """The attributes that were read here as a list, dict or set and changed since:
    `bag.items.append(4)` must reach the bag.
    """
    changes = []
    for (number, name), (container, before) in list(self.views.items()):
      after = self.encode(container)
      if after != before:
        changes.append([number, name, after])
        self.views[number, name] = (container, after)
    return changes

  def apply_effects(self, message):
    """Does here what happened over there beside the value."""
    for number, name, contents in message.get("views", ()):
      container = self.perform("getattr", self.own(number), (name,), {})
      if is_mutable(container):
        refill(container, self.decode(contents))

  def serve(self, request):
    """Does what the other side asks for, and tells it what came of it."""
    try:
      self.apply_effects(request)
      args = self.decode(request["args"])
      kwargs = {name: self.decode(value) for name, value in request["kwargs"].items()}
      value = self.perform(request["op"], self.own(request["on"]), args, kwargs)
      self.reply(request, [*args, *kwargs.values()], value)
    except Gone:
      raise
    except (
      BaseException
    ) as error:  # SystemExit and the like: the answer's own doing, reported as any error
      self.send({"error": self.describe(error)})

  def reply(self, request, arguments, value):
    """Sends a value, and the arguments that the call changed in place or gave back."""
    message = {"value": self.encode(value)}
    changed = []
    sent = [*request["args"], *request["kwargs"].values()]
    for i, argument in enumerate(arguments):
      if request["op"] != "call" or not is_mutable(argument):
        continue
      after = self.encode(argument)
      if after != sent[i]:
        changed.append([i, after])
      elif value is argument:
        message["value"] = {"t": "argument", "v": i}
    if changed:
      message["changed"] = changed
    self.send(message)

  def describe(self, error):
    """As `describe`, and whose the error is, so that it is the same one when it comes back to where
    it was raised.
    """
    described = describe(error)
    origin = BaseException.__getattribute__(error, "__dict__").get("_sandbox_origin")
    if isinstance(origin, int):
      return described | {"yours": origin}
    self.shared.append(error.with_traceback(None))
    return described | {"mine": len(self.shared) - 1}

  def ask(self, op, remote, args=(), kwargs=None, trust=None):
    """What `op` gives on the other side's object; raises what it raised there."""
    kwargs = kwargs or {}
    with self.turn:
      request = {
        "op": op,
        "on": remote._number,
        "args": [self.encode(x) for x in args],
        "kwargs": {name: self.encode(value) for name, value in kwargs.items()},
      }
      try:
        if self.gone:
          raise EOFError
        self.send(request)
        while "op" in (reply := receive(self.reader)):
          self.serve(reply)
        self.apply_effects(reply)
        error = self.raised(reply["error"]) if "error" in reply else None
        value = None if error else self.returned(reply, remote, args, kwargs, trust)
      except Exception as malformed:
        # or dead since the last reply: no error that a test may take for the answer's
        self.gone = True
        raise Gone("the answer's process died or broke the protocol") from malformed
      if error is None and op == "getattr" and is_mutable(value):
        self.views[remote._number, args[0]] = (value, reply["value"])
        while len(self.views) > MAX_VIEWS:
          del self.views[next(iter(self.views))]
    if error:
      raise error
    return value

  def raised(self, described):
    if "yours" in described:
      error = self.own(described["yours"])
      if not isinstance(error, BaseException):
        raise ValueError("not an error")
      return error
    error = self.revive(described)
    error._sandbox_origin = described.get("mine")
    return error

  def returned(self, reply, remote, args, kwargs, trust):
    """The value of a reply. What the call changed in place is changed here if it returned None, as
    functions that work in place do (list.sort). Else the answer could empty its argument and return
    that, and pass `assert f(a) == sorted(a)`.
    """
    arguments = [*args, *kwargs.values()]
    encoded = reply["value"]
    if isinstance(encoded, dict) and encoded["t"] == "argument":
      return arguments[encoded["v"]]
    value = self.decode(encoded, trust)
    if "changed" in reply and (value is None or self.expects_changes(remote, args, kwargs)):
      for i, contents in reply["changed"]:
        refill(arguments[i], self.decode(contents))
    return value
