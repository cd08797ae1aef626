"""Whose is a name in the tests: the answer's, the reference's, the library's, the tests' own?

Whatever the answer supplies it may lie with: its own `isclose` can call everything close. So it
supplies what was asked of it and nothing else. Helpers that stand beside the asked function in the
reference (HumanEval/38 tests decode_cyclic by the reference's encode_cyclic) run in the judge, from
the reference's own code; imports that the tests forgot are made up for.

  plan  reads a job's tests, setup and reference, and says where each name comes from
"""

import ast
import builtins
import dis
import functools
import importlib
import sys
from typing import NamedTuple

from lib.sandbox_data import ERRORS
from lib.sandbox_solver import IMPORTS, definitions, parsed

# Modules whose names tests use without importing them, as the answer's own imports would have
# covered it. First come first.
LENT = """
math collections itertools functools statistics operator heapq bisect copy datetime decimal
fractions"""
# Comparisons of packages that are not here. What an answer defines under these names is no answer.
NEVER_ASKED = {
  "approx",
  "allclose",
  "array_equal",
  "np",
  "numpy",
  "pd",
  "pandas",
  "pytest",
  "torch",
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
OPERATIONS = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS", "STORE_NAME")
NAMED = {dis.opmap[name]: name for name in OPERATIONS if name in dis.opmap}


class Plan(NamedTuple):
  """Where the names that the tests use come from. `None` where only a reference could say."""

  asked: list  # names that the answer must define
  classes: set | None  # those of them that are classes in the reference
  helpers: list  # names that come from the reference
  imports: list  # lines of code
  given: list  # classes of the tests, setup and reference, which the answer may use undefined
  errors: dict  # those of the given that are exceptions: {name: name of its base}
  attributes: set | None  # what the reference's classes define, special methods included
  constructors: set | None  # its class methods


@functools.cache  # the worker asks first, so that each job finds it made
def lent_names():
  """{name: module} of what LENT defines."""
  lent = {}
  for module in LENT.split():
    for name in vars(importlib.import_module(module)):
      if not name.startswith("_") and not hasattr(builtins, name):
        lent.setdefault(name, module)
  return lent


class Use(NamedTuple):
  """Names that a code object loads before it stores them, in order, and names that it stores."""

  # Example: in `t = f(3)\nassert t == g(t)` loaded is [f, g] and stored {t}.
  loaded: list
  stored: set


def named(code):
  """(operation, name) of the instructions of a code object that load or store a name, in order.

  As dis.get_instructions tells it, which costs ten times as much.
  """
  high = 0  # the upper bits of an argument over 255 come in instructions of their own
  # Bytecode comes in pairs of bytes, an operation and its argument (since Python 3.6).
  for op, arg in zip(code.co_code[::2], code.co_code[1::2], strict=True):
    arg |= high
    high = arg << 8 if op == dis.EXTENDED_ARG else 0
    if op in NAMED:
      # since Python 3.11 the lowest bit of a LOAD_GLOBAL says something else
      at = arg >> 1 if NAMED[op] == "LOAD_GLOBAL" and sys.version_info >= (3, 11) else arg
      yield NAMED[op], code.co_names[at]


def use_of(code):
  """The Use of a text's code.

  Read from the bytecode, because the compiler knows every rule of scope: the n of
  `sum(n for n in xs)` is not a free n.
  """
  loaded, stored = {}, set()  # a dict keeps the order
  if code is None:
    return Use([], stored)
  for op, name in named(code):
    if op == "STORE_NAME":
      stored.add(name)
    elif name not in stored:
      loaded[name] = None
  # Functions run later, when all of the text's own names are there.
  for name in global_names(code):
    if name not in stored:
      loaded[name] = None
  return Use([name for name in loaded if not name.startswith("__")], stored)


def free_names(uses):
  """Names that texts which run one after the other in one scope take from outside."""
  free, stored = {}, set()
  for use in uses:
    # What the setup stores, a test need not get from anywhere.
    free.update(dict.fromkeys(name for name in use.loaded if name not in stored))
    stored |= use.stored
  return list(free)


def global_names(code):
  """Names that functions and classes in a code object look up outside themselves."""
  for inner in code.co_consts:
    # Constants hold numbers and texts, too; only functions, classes and comprehensions have code.
    if not hasattr(inner, "co_code"):
      continue
    own = set()
    for op, name in named(inner):
      if op == "STORE_NAME":  # in the body of a class
        own.add(name)
      elif name not in own:
        yield name
    yield from global_names(inner)


def called_names(tree):
  calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
  return {function.id for function in calls if isinstance(function, ast.Name)}


def is_literal(node):
  try:
    ast.literal_eval(node)
  except ValueError:
    return False
  return True


def constants(statements):
  """Names that are bound to a literal: `LIMIT = [1, 2]`."""
  return set().union(
    *(
      definitions([node])
      for node in statements
      # A table beside the reference's function is a helper, not what was asked for.
      if isinstance(node, ast.Assign) and is_literal(node.value)
    )
  )


def class_names(tree):
  return {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def error_bases(trees):
  """{class: its base} of the exceptions that the trees define, bases first."""
  found = {}
  for kind in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
    for base in (base.id for base in kind.bases if isinstance(base, ast.Name)):
      # Only by way of a known exception: an own class that inherits from nothing is no error.
      if base in ERRORS or base in found:
        found[kind.name] = base
  return found


def class_attributes(tree):
  """What the classes in a tree define: methods, fields, and attributes set on self."""
  found = set()
  for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
    found |= definitions(kind.body)
    for node in ast.walk(kind):
      # `self.items = []` in __init__ makes items an attribute that tests may read.
      if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        found.add(node.attr)
  return found


def class_methods(tree):
  return {
    node.name
    for node in ast.walk(tree)
    if isinstance(node, FUNCTIONS)
    and any(isinstance(d, ast.Name) and d.id == "classmethod" for d in node.decorator_list)
  }


def handed_over(tests, names):
  """Those of `names` that tests hand to a function of their own: HumanEval's `check(candidate)`."""
  statements = [node for text in tests for node in parsed(text).body]
  own = definitions(statements)
  handed = set()
  for node in statements:
    # A statement of its own, outside of any assert, is how such tests start: `check(f)`.
    call = node.value if isinstance(node, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in own:
      handed |= {arg.id for arg in call.args if isinstance(arg, ast.Name)}
  return handed & names


def standing_alone(loaded, names):
  """Those of `names` that some test uses alone; a helper never is: `same(f(2), [1, 2])`."""
  found = set()
  for used in loaded:
    # One name in one test leaves no doubt who is tested.
    if len(names.intersection(used)) == 1:
      found |= names.intersection(used)
  return found


def asked_functions(names, order, loaded, tests, entry_point):
  """Of the reference's functions that tests use, those asked for; the others are helpers."""
  # From the surest sign to a guess: the data set says so, there is no choice, the tests' own form.
  if entry_point in names:
    return {entry_point}
  if len(names) == 1:
    return names
  found = handed_over(tests, names) or standing_alone(loaded, names)
  return found or {max(names, key=order.index)}  # the last one: helpers stand above what they help


def plan(setup, tests, reference, entry_point=""):
  """The Plan of a job, whose texts need not be Python."""
  uses = [use_of(compiled(text)) for text in (setup, *tests)]
  free = free_names(uses)
  loaded = [use.loaded for use in uses[1:]]
  # Parsed only where the word stands in it: texts are many, classes few.
  with_classes = [parsed(text) for text in (setup, *tests) if "class" in text]
  given = set().union(*map(class_names, with_classes))

  tree = parsed(reference)
  imports = [node for node in tree.body if isinstance(node, IMPORTS)]
  imported = definitions(imports)
  # The reference's imports serve the tests as well: after `from math import gcd`, gcd is math's.
  free = [name for name in free if name not in imported]
  order = [name for node in tree.body for name in sorted(definitions([node]))]
  used = set(order).intersection(free)
  # No reference, or one that defines nothing that the tests use.
  if not used:
    asked, lines = asked_without_reference(free, loaded, tests)
    lines = [*import_lines(imports, uses), *lines]
    errors = error_bases(with_classes)
    return Plan(sorted(asked), None, [], lines, sorted(given), errors, None, None)

  classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} & used
  functions = used - classes - constants(tree.body)
  asked = set(classes)
  if functions:
    asked |= asked_functions(functions, order, loaded, tests, entry_point)
  # Nothing but constants is used: then they are what was asked for.
  asked = asked or used
  unexplained = [name for name in free if name not in used and not hasattr(builtins, name)]
  return Plan(
    asked=sorted(asked),
    classes=classes,
    helpers=sorted(used - asked),
    imports=[*import_lines(imports, uses), *lend(unexplained)],
    given=sorted(given | class_names(tree)),
    errors=error_bases([tree, *with_classes]),
    attributes=class_attributes(tree),
    constructors=class_methods(tree),
  )


def import_lines(imports, uses):
  """The reference's imports that the tests need: what a star brings nobody can tell beforehand."""
  needed = {"*"}.union(*(use.loaded for use in uses))
  # `from math import *` may bring any name, so it is always taken.
  return [ast.unparse(node) for node in imports if definitions([node]) & needed]


def asked_without_reference(free, loaded, tests):
  """(asked names, lines of imports) from the tests alone: asked is what nothing else explains."""
  strangers = [name for name in free if not hasattr(builtins, name)]
  modules = [name for name in strangers if name in sys.stdlib_module_names]
  if modules:  # `queue` may be a module, or the function `queue(3)`
    # A module is never called: `queue(3)` must be the asked function.
    called = set().union(*(called_names(parsed(text)) for text in tests))
    modules = [name for name in modules if name not in called]
  names = set(strangers) - {*modules} - NEVER_ASKED
  # Asked to write `gcd`, an answer's gcd is tested alone; beside the asked function, gcd is the
  # library's.
  lent = names.intersection(lent_names())
  if lent:
    lent -= standing_alone(loaded, names)
  # `assert isclose(area(2), 12.57)`: area is asked, isclose the library's.
  if names - lent:
    names -= lent
  else:
    # Nothing else is left, so the library-like name itself is what was asked for.
    lent = set()
  # No such name at all: the asked function is called like a builtin, which then every test calls.
  if not names:
    names = set(free).intersection(*(called_names(parsed(text)) for text in tests)) - {*modules}
  return names, lend([*modules, *sorted(lent)])


def lend(names):
  """The lines that import what the library has of `names`."""
  lines = []
  for name in names:
    if name in lent_names():
      lines.append(f"from {lent_names()[name]} import {name}")
    elif name in sys.stdlib_module_names:
      lines.append(f"import {name}")
  return lines


@functools.cache
def compiled(text):
  """The code of a text, None where it is not Python: whoever runs it will see why."""
  try:
    return compile(text, "<test>", "exec", dont_inherit=True)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None
