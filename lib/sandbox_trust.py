"""How far the tests may trust an object of the answer's: what keeps a lie from being a verdict.

An answer may return anything: also an object that says True to every question. It must then never
be told what is expected, or the answer could pass without knowing it. Data is safe (it crosses by
value and is compared here, by Python's own types); an `AnswerObject` stands for what is no data,
and its trust says which operators work on it:

  RESULT  what a function or method returned: its attributes and methods, iteration, str, truth,
          identity. No comparison, no arithmetic, no `in`, len or [...], and no method by which data
          answers a question ("abc".startswith(expected))
  OBJECT  what the tests built by calling a class that they ask for (`Stack()`), and what operators
          make of that: all of it, but it is compared with its own kind only, and arithmetic with
          data (`V(1, 2) * 3`) must give an object again

Where a reference solution is at hand, its classes widen RESULT by what they define, and narrow
OBJECT's questions to it.
"""

import builtins
import operator
import sys

from lib import sandbox_remote as remote
from lib.sandbox_data import is_mutable

RESULT, OBJECT = "result", "object"

# By these, data answers a question about a value that it is told, or about itself as a whole. In a
# test they decide alone: `assert name(3).startswith("Fizz")` compares nothing that came back.
QUESTION_NAMES = """
startswith endswith find rfind index rindex count isdisjoint issubset issuperset is_integer all any
equals allclose isclose array_equal almost_equal samefile match fullmatch is_relative_to is_nan
is_zero is_signed is_finite is_infinite compare"""
QUESTIONS = {*QUESTION_NAMES.split(), *(name for name in dir(str) if name.startswith("is"))}
# What any object may be asked. None of it tells the object what is expected of it, and what it
# gives back is compared here, unless it is an object again.
HARMLESS = """
getattr setattr delattr call iter next bool str repr format isinstance issubclass enter leave copy
deepcopy finish plain subclass super"""
ANY_OBJECT = set(HARMLESS.split())
ARITHMETIC = {**remote.BINARY, **remote.REFLECTED, **remote.IN_PLACE}
# `abs(f(2) - 4.5) < 1e-6` tells the object what is expected, and asks it how far it is off.
DIFFERENCE = {"__sub__", "__rsub__", "__isub__"}
# What a class has to define in the reference before the tests may ask it of a RESULT.
SPECIAL_METHODS = {
  "len": "__len__",
  "int": "__int__",
  "round": "__round__",
  "reversed": "__reversed__",
}


def is_answers(value):
  # by type(), because `__class__` is the answer's to say
  return type(value) is AnswerObject


class AnswerObject(remote.Remote):
  __slots__ = ("_makes", "_trust")  # _makes: a call builds an OBJECT
  __doc__ = remote.Remote.__dict__["__doc__"]
  __module__ = remote.Remote.__dict__["__module__"]

  def __init__(self, peer, number, about):
    super().__init__(peer, number, about)
    object.__setattr__(self, "_trust", RESULT)
    object.__setattr__(self, "_makes", False)

  def _trusted(self, trust, makes=False):
    """Raises the trust, wherever the tests have the object: there is one AnswerObject for each."""
    if trust == OBJECT:
      object.__setattr__(self, "_trust", OBJECT)
    if makes:
      object.__setattr__(self, "_makes", True)
    return self

  def _ask(self, op, /, *args, **kwargs):
    # Checked before anything is sent: the answer must not see a refused question's argument.
    rules = self._peer.rules
    told = rules.check(self, op, args)
    value = self._peer.ask(op, self, args, kwargs, rules.trust(self, op))
    # It heard a number of the tests', so a number in return may just be what was expected.
    if told and not is_answers(value):
      raise TypeError("arithmetic of an answer's object with data must give an object")
    if op == "getattr" and is_answers(value) and self._makes and args[0] in rules.made_by(value):
      value._trusted(OBJECT, makes=True)
    return value

  def __hash__(self):
    # By identity: a hash of its choosing could make it meet an expected value in a set or dict.
    if self._trust == RESULT:
      return hash((AnswerObject, self._number))
    return self._ask("hash")

  def __eq__(self, other):
    if other is self:
      return True
    # `assert f(3) == None` must not be asked of the answer, and its object is not None.
    if other is None:
      return False
    return compared(self, "__eq__", other) is True

  def __ne__(self, other):
    return not self == other

  @property
  def __class__(self):
    kind = self._ask("getattr", "__class__")
    if not is_answers(
      kind
    ):  # isinstance(value, int) reads this, too: never a class that the judge knows
      # Not an AttributeError, behind which Python would ask again by __getattr__.
      raise TypeError("an object of the answer has none of Python's own types")
    return kind

  def __exit__(self, kind, error, trace):
    swallowed = super().__exit__(kind, error, trace)
    # A failed assertion is the verdict: a `with` of the answer's must not swallow it.
    return bool(swallowed) and not isinstance(error, AssertionError)

  def __mro_entries__(self, bases):
    # Python calls this for `class Dog(Animal)` where Animal is no class (PEP 560).
    return (Inherits,)


def compared(mine, op, other):
  # Two objects of the answer: its class decides, as in Python, and is told nothing of the tests'.
  if is_answers(other) and OBJECT in (mine._trust, other._trust):
    return mine._ask(op, other)
  if mine._about == "data" and not is_answers(other):
    # a list with methods of its own: compared is what it holds, by list's own rules
    return getattr(operator, op)(plain(mine), other)
  raise TypeError("an object of the answer can only be compared with objects of its kind")


def plain(mine):
  """The data in an object of a class that inherits from data.

  What cannot change is asked once: a number that is first high and then low would pass
  `3 <= f(2) <= 5`.
  """
  known = mine._peer.plain_values
  if mine._number not in known:
    value = mine._ask("plain")
    if is_mutable(value):
      return value
    known[mine._number] = value
  return known[mine._number]


def comparison(op):
  def method(self, other):
    return compared(self, op, other) is True

  return method


for _op in ("__lt__", "__le__", "__gt__", "__ge__"):
  setattr(AnswerObject, _op, comparison(_op))


class Rules:
  """The rules of one job.

  attributes, constructors: what the reference's classes define, None where there is no reference.
  """

  def __init__(self, attributes, constructors):
    self.attributes = attributes
    self.constructors = constructors

  def check(self, mine, op, args):
    """Raises TypeError for what the tests may not do; True where the result has to be an object."""
    trusted = mine._trust == OBJECT
    defined = self.attributes or ()
    # Unless the reference's class has such a method, as a polynomial may have `count`.
    asks = op == "getattr" and args[0] in QUESTIONS and args[0] not in defined
    if asks and not (trusted and self.attributes is None):
      raise TypeError(f"the answer's result is not plain data that could be asked {args[0]!r}")
    # Comparisons have their own guard, see `compared`.
    if op in ANY_OBJECT or op in remote.COMPARISONS:
      return False
    if op in ARITHMETIC:
      other = args[0]
      # as in `compared`: both are the answer's own
      if is_answers(other) and OBJECT in (mine._trust, other._trust):
        return False
      # `V(1, 2) * 3` is an object; were it a number, the 3 could have been what is expected
      if trusted and op not in DIFFERENCE:
        return not is_answers(other)
    elif trusted or SPECIAL_METHODS.get(op, op) in defined:
      return False
    raise TypeError("the answer's result is not plain data")

  def trust(self, mine, op):
    """The trust of what an operation gives."""
    if op == "call":
      return OBJECT if mine._makes else RESULT
    if op == "getattr":
      return OBJECT if mine._makes else RESULT
    # Both are of the tests' own making.
    if op in ("subclass", "super"):
      return OBJECT
    # `-v` and a copy are what v was; arithmetic that passed `check` gives an object.
    if op in ARITHMETIC or op in remote.UNARY or op in ("copy", "deepcopy"):
      return mine._trust if op not in ARITHMETIC else OBJECT
    return RESULT

  def made_by(self, value):
    """Names of a class's attributes that build objects of it, as `Temperature.of(212)` does."""
    return Anything() if self.constructors is None else self.constructors


class Anything:
  def __contains__(self, name):
    return True


# Classes of the tests' own that inherit from the answer's.
class Inheriting(type):
  """Makes the tests' `class Dog(Animal)` in the answer's process, where its Animal lives."""

  def __new__(cls, name, bases, namespace, **kwargs):
    originals = namespace.pop("__orig_bases__", None)
    # Inherits itself, at import: an ordinary class.
    if originals is None:
      return super().__new__(cls, name, bases, namespace, **kwargs)
    first, *others = originals
    # The compiler's slot for the class that a bare super() looks up; left empty, super() raises.
    cell = namespace.pop("__classcell__", None)
    members = {key: value for key, value in namespace.items() if key != "__qualname__"}
    # The class is made over there; its methods stay here, and are called back.
    made = first._ask("subclass", name, others, members)._trusted(OBJECT, makes=True)
    if cell is not None:
      cell.cell_contents = made  # what a bare super() in the methods reads
    return made


class Inherits(metaclass=Inheriting):
  pass


class AnyType(type):
  def __instancecheck__(cls, value):
    return not is_answers(value) and isinstance(value, builtins.type)


class TestsType(type, metaclass=AnyType):
  """`type` as the tests have it: of an object of the answer the class that the answer gave it.

  That class is an object of the answer again, so `type(f()) == A` compares identities, and
  `type(f()) == int` is no question that the answer gets to hear.
  """

  __test__ = False  # no test, whatever pytest thinks of its name

  def __new__(cls, *args, **kwargs):
    if cls is not TestsType or len(args) != 1:
      # A class made by hand, or by a metaclass of the tests'.
      return builtins.type.__new__(builtins.type if cls is TestsType else cls, *args, **kwargs)
    if not is_answers(args[0]):
      kind = builtins.type(args[0])
      return cls if kind is builtins.type else kind
    return args[0].__class__

  def __init__(cls, *args, **kwargs):
    if len(args) != 1:
      super().__init__(*args)


def tests_super(*args):
  """`super` in the tests: as Python's, also in a class that inherits from the answer's."""
  if not args:
    # A bare super() means: of the class around the caller, for the caller's first argument.
    frame = sys._getframe(1)
    args = (frame.f_locals["__class__"], frame.f_locals[frame.f_code.co_varnames[0]])
  kind, *rest = args
  return Above(kind._ask("super", *rest)) if is_answers(kind) else builtins.super(*args)


class Above:
  """What super() gives: also `__init__`, of which an AnswerObject has one of its own."""

  def __init__(self, remote):
    self.remote = remote

  def __getattribute__(self, name):
    return object.__getattribute__(self, "remote")._ask("getattr", name)


def stand_in(name, bases, peer):
  """A real exception class for one of the answer's, which `except NotFound` in the tests needs.

  The judge raises it for the answer's errors.
  Its attributes are read from the answer's error, if the answer raised it.
  """

  def read(self, attribute):
    # Of an exception that the judge made there is nothing to read over there.
    number = BaseException.__getattribute__(self, "__dict__").get("_sandbox_origin")
    if attribute.startswith("_") or number is None:
      raise AttributeError(attribute)
    return getattr(peer.adopt(number, "", RESULT), attribute)

  return type(name, bases, {"__getattr__": read, "__module__": "solution"})
