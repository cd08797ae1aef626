"""Plain data: what travels between a job's two processes by value, and how it is taken apart.

KINDS             the types, each with what a value of it is made of
refill            puts the new contents of a container into the old one
describe, revive  an exception to plain data and back
"""

import array
import builtins
import collections
import contextlib
import datetime
import decimal
import fractions
import functools
import ipaddress
import keyword
import pathlib
import re
import types
import uuid
from typing import NamedTuple


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
  # Hexadecimal: linear in time, and without Python's limit of 4,300 decimal digits.
  int: Kind(hex, hexadecimal),
  # JSON as Python writes it has NaN and Infinity, and repr's digits give the same float back.
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
  # By text, which is exact: Decimal("0.10") keeps its last zero.
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
  """Whether JSON carries a list as it is; long ints it does not, as they are slow to print."""
  # In C, for a list of a million numbers.
  kinds = set(map(type, values))
  if kinds == {int}:
    return min(values) >= -(2**63) and max(values) < 2**63
  return kinds <= FLAT


@functools.lru_cache(64)
def record_type(name, fields):
  """The namedtuple of these fields, made from checked names only."""
  # namedtuple builds its source text of these words, and the sender may be the answer.
  for word in (name, *fields):
    if not isinstance(word, str) or not word.isidentifier() or keyword.iskeyword(word):
      raise ValueError(f"{word!r} cannot name a field")
  return collections.namedtuple(name, fields)


# Which containers a call may change in place; `refill` repeats that on the other side's original.
def is_mutable(value):
  # by type(), as isinstance would ask a Remote for its class
  return issubclass(type(value), MUTABLE)


def refill(old, new):
  """Gives a container another's contents, in place, and its inner containers likewise."""
  base = next(kind for kind in MUTABLE if isinstance(old, kind))
  if not isinstance(new, base):
    raise TypeError("a container changed its type")
  # Item by item where the lengths agree, so that `row = grid[0]` stays a row of the grid.
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
  """`now`, or `was` refilled where both are containers of one type: other names see it."""
  if type(was) is type(now) and is_mutable(now):
    refill(was, now)
    return was
  return now


def describe(error):
  """An exception as plain data: its classes (most derived first), message, arguments."""
  # Cut, as a class may be given any name.
  names = [str(kind.__name__)[:100] for kind in type(error).__mro__]
  args = BaseException.args.__get__(error)  # whatever the answer's class says `args` is
  try:
    # str(KeyError("a")) is "'a'" with quotes; the argument itself is the message.
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
  # An exception of the answer's own class comes out as the nearest one that Python has.
  for name in names:
    if name in known:
      with contextlib.suppress(TypeError):  # UnicodeDecodeError needs five arguments
        return known[name](*args)
  return RuntimeError(f"{str(names[0])[:100]}: {str(message)[:1000]}")
