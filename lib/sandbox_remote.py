"""What can be asked of an object of the other process, and the `Remote` that stands for it.

A Remote forwards every operator of Python: `a + b` becomes the question "__add__" with b, to be
answered where a lives. What is granted is each side's own rule (`Peer.perform`).
"""

import copy
import itertools
import operator

from lib.sandbox_data import describe, revive


def call(function, /, *args, **kwargs):
  return function(*args, **kwargs)


def next_items(iterator):
  """The next item in a list, an empty one at the end: a StopIteration never crosses."""
  return list(itertools.islice(iterator, 1))


def is_instance(kind, value):
  return isinstance(value, kind)


def is_subclass(kind, other):
  # Also asked of an object that is no class, where issubclass alone would raise.
  return isinstance(other, type) and issubclass(other, kind)


def enter(manager):
  return type(manager).__enter__(manager)


def leave(manager, described):
  error = revive(described) if described else None
  # As a `with` statement does: from the class, past what the object itself carries.
  return type(manager).__exit__(manager, type(error) if error else None, error, None)


def reflect(operation):
  def reflected(value, other):
    return operation(other, value)

  return reflected


# Python's operators by the names of their methods: "__add__" is asked as operator.__add__(a, b),
# which also tries the other operand's __radd__, as `a + b` does.
ARITHMETIC_NAMES = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift"
ARITHMETIC = ARITHMETIC_NAMES.split()
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
READABLE |= {"__annotations__", "__defaults__", "__kwdefaults__"}


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
    # The way out of every sandbox of Python's: ().__class__.__base__.__subclasses__().
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
    # A list of one item or none, see `next_items`.
    for item in self._ask("next"):
      return item
    raise StopIteration

  def __reversed__(self):
    return self._ask("reversed")

  def __bool__(self):
    # `is True`: the answer's __bool__ may give anything, and Python takes nothing but a bool.
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
    # isinstance(x, Dog) in the tests, where Dog is the answer's: plain data is never a Dog.
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


# On the class, since Python looks operators up there and never asks __getattr__ for them.
for _op in OPERATORS:
  setattr(Remote, _op, forwarded(_op))
