"""Run an answer's code against tests it cannot see, and report a verdict it cannot forge.

Imported, this file is the client: `Sandbox.run` sends jobs to worker processes and returns verdicts. Run as
`python -I -S -B sandbox.py --worker FD CONFIG` it is a worker, which forks two locked-down processes for each job:

  solver  executes the answer and serves "call f(args)"; never sees a test or an expected value
  judge   executes the tests; each name that the answer must define is a Remote that asks the solver

Between them travels tagged plain data, never pickle and never a comparison: asserts, builtins and expected values exist only in
the judge, so no answer can decide whether it passed. A worker imports the standard library once, never reads a job itself, and
so forks every job from the same clean memory. Each job ends by SIGKILL at `wall_seconds` at the latest.

  with sandbox.Sandbox(workers=2) as box:
    verdict, = box.run([{"code": "def f(x): return x * x", "tests": ["assert f(3) == 9"]}])

Not seen or not possible: a change to an argument made in place is seen only where the test throws the call's result away
(`f(a)` alone on a line); objects of the answer's own classes can be built, called and asked for attributes, but only
compared by identity; a class that the tests define cannot be passed to the answer; only the standard library can be imported.
"""
import ast
import builtins
import collections
import concurrent.futures
import contextlib
import ctypes
import datetime
import decimal
import errno
import fractions
import gc
import importlib
import itertools
import json
import operator
import os
import pathlib
import queue
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import types
from typing import NamedTuple

MAX_CODE = 1 << 16  # characters of an answer; also keeps the compiler's worst cases short
MAX_MESSAGE = 4 << 20  # bytes between two processes
MAX_DEPTH = 200  # nesting of a value that crosses the wire
GRACE_SECONDS = 2.0  # how much later than its limit a worker may report before it counts as lost


class SandboxUnavailable(RuntimeError):
  """This machine cannot isolate code; the message says what is missing and what to do."""


class Verdict(NamedTuple):
  passed: bool  # every test passed, and there was at least one
  results: list  # one bool per test
  error: str | None  # first thing that went wrong, in a few words


# ------------------------------------------------------------------------------------------------ client
class Worker:
  """One worker process: started on first use, replaced when it is lost."""

  def __init__(self, wall_seconds, memory_mb):
    self.config = {"wall": wall_seconds, "memory": memory_mb << 20}
    self.process, self.layers = None, {}

  def start(self):
    self.control, theirs = socket.socketpair()
    # Without preexec_fn CPython starts the child by vfork: the trainer never forks, no at-fork hook of JAX runs.
    # The environment is fixed: no token of the trainer's can be read, and string hashes repeat.
    command = [sys.executable, "-I", "-S", "-B", os.path.abspath(__file__), "--worker", str(theirs.fileno())]
    try:
      self.process = subprocess.Popen(
          [*command, json.dumps(self.config)], pass_fds=[theirs.fileno()], cwd="/", start_new_session=True,
          env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as error:
      raise SandboxUnavailable(f"the code sandbox cannot start {sys.executable!r}: {error.strerror}; expected a Python to run; "
                               "use --code_rewards=off to train without code") from None
    theirs.close()
    self.control.settimeout(30)
    try:
      hello = json.loads(self.control.recv(4096))
    except (OSError, ValueError):
      self.process.kill()
      reason = self.process.stderr.read().decode(errors="replace").strip().splitlines()[-1:] or ["no answer from the worker"]
      self.stop()
      raise SandboxUnavailable(f"the code sandbox did not start: {reason[0]}; expected a Linux machine on which "
                               f"{sys.executable} runs; use --code_rewards=off to train without code") from None
    self.process.stderr.close()
    self.layers = hello
    if not (hello["seccomp"] or (hello["uid"] and hello["chroot"])):
      self.stop()
      raise SandboxUnavailable("code cannot be isolated: no seccomp filter here, and not root; expected either one; "
                               "run as root or allow seccomp in the container, or use --code_rewards=off")

  def stop(self):
    if self.process is not None:
      self.control.close()
      self.process.kill()
      self.process.wait()
      self.process.stderr.close()
      self.process = None

  def run(self, job):
    message = {key: job.get(key) or "" for key in ("code", "setup", "reference")}
    tests = message["tests"] = list(job.get("tests") or ())
    failed = lambda why: Verdict(False, [False] * len(tests), why)
    if not tests:
      return failed("no tests")
    if not all(isinstance(x, str) for x in (message["code"], message["setup"], message["reference"], *tests)):
      return failed("code and tests must be text")
    if len(message["code"]) > MAX_CODE:
      return failed(f"code longer than {MAX_CODE} characters")
    try:
      if self.process is None:
        self.start()
      answer, ended = self._exchange(message)
    except (OSError, ValueError, SandboxUnavailable):
      self.stop()  # gone or stuck: drop it, the next job starts a clean one
      return failed("worker lost")
    if ended["timeout"]:
      return failed("timeout")
    if answer is None:
      return failed("judge died")
    results = [bool(x) for x in answer["results"]]
    return Verdict(all(results), results, answer["error"])

  def _exchange(self, message):
    """Hands the judge its end of a fresh socket; returns its answer (None if it died) and the worker's closing word."""
    deadline = time.monotonic() + self.config["wall"] + GRACE_SECONDS
    ours, theirs = socket.socketpair()
    with ours, theirs:
      self.control.settimeout(GRACE_SECONDS)
      socket.send_fds(self.control, [b"J"], [theirs.fileno()])
      theirs.close()
      answer = None
      with contextlib.suppress(OSError, ValueError, EOFError, struct.error):
        ours.settimeout(max(0.01, deadline - time.monotonic()))
        body = json.dumps(message).encode()
        ours.sendall(struct.pack("<I", len(body)) + body)
        answer = receive(ours.recv)
      self.control.settimeout(max(0.01, deadline - time.monotonic()))
      return answer, json.loads(self.control.recv(4096))


class Sandbox:
  """A pool of workers that run answers' code; usable from several threads at once.

  Args:
    workers: processes to keep; None means one per usable core, at most 8.
    wall_seconds: seconds of real time after which a job is killed.
    memory_mb: MiB of address space that a job may add.

  `layers` tells which layers of isolation this machine gives. Raises SandboxUnavailable where they do not suffice.
  """

  def __init__(self, workers=None, wall_seconds=3.0, memory_mb=512):
    if not sys.platform.startswith("linux"):
      raise SandboxUnavailable(f"the code sandbox needs Linux, found {sys.platform}; use --code_rewards=off")
    self.workers = [Worker(wall_seconds, memory_mb) for _ in range(workers or min(8, len(os.sched_getaffinity(0))))]
    self.idle = queue.SimpleQueue()
    self.pool = concurrent.futures.ThreadPoolExecutor(len(self.workers), thread_name_prefix="sandbox")
    try:
      list(self.pool.map(Worker.start, self.workers))
    except BaseException:
      self.close()
      raise
    for worker in self.workers:
      self.idle.put(worker)
    self.layers = self.workers[0].layers

  def run(self, jobs):
    """Verdicts of `jobs`, in order. A job is {"code", "tests", "setup": "", "reference": ""}; a bad one fails, none raises.

    `code` is an answer's text, of which the fenced Python blocks count. `setup` runs before the tests, in the judge.
    `reference`, code of a right answer, tells which names the answer must define; without it, the tests' free names.
    """
    return list(self.pool.map(self._run_one, jobs))

  def _run_one(self, job):
    worker = self.idle.get()
    try:
      return worker.run(job)
    finally:
      self.idle.put(worker)

  def close(self):
    self.pool.shutdown()
    for worker in self.workers:
      worker.stop()

  def __enter__(self):
    return self

  def __exit__(self, *exc):
    self.close()


# ------------------------------------------------------------------------------------------------ the wire: tagged plain data
PARTS = {  # a type that crosses the wire: (what its value is made of, how the value is made again)
    int: (hex, lambda v: int(v, 16)), tuple: (lambda v: [*tuple.__iter__(v)], tuple), set: (lambda v: [*set.__iter__(v)], set),
    frozenset: (lambda v: [*frozenset.__iter__(v)], frozenset), collections.deque: (list, collections.deque),
    dict: (lambda v: [[k, x] for k, x in dict.items(v)], dict),
    collections.OrderedDict: (lambda v: [[k, x] for k, x in dict.items(v)], collections.OrderedDict),
    collections.Counter: (lambda v: [[k, x] for k, x in dict.items(v)], lambda v: collections.Counter(dict(v))),
    type({}.keys()): (list, lambda v: dict.fromkeys(v).keys()), type({}.items()): (list, lambda v: dict(v).items()),
    type({}.values()): (list, lambda v: dict(enumerate(v)).values()),
    bytes: (bytes.hex, bytes.fromhex), bytearray: (bytearray.hex, bytearray.fromhex),
    complex: (lambda v: [v.real, v.imag], lambda v: complex(*v)), type(...): (lambda v: None, lambda v: ...),
    range: (lambda v: [v.start, v.stop, v.step], lambda v: range(*v)),
    slice: (lambda v: [v.start, v.stop, v.step], lambda v: slice(*v)),
    decimal.Decimal: (str, decimal.Decimal),
    fractions.Fraction: (lambda v: [v.numerator, v.denominator], lambda v: fractions.Fraction(*v)),
    datetime.timedelta: (lambda v: [v.days, v.seconds, v.microseconds], lambda v: datetime.timedelta(*v)),
    **{t: (t.isoformat, t.fromisoformat) for t in (datetime.datetime, datetime.date, datetime.time)},
}
MAKE = {kind.__name__: make for kind, (_, make) in PARTS.items()}


def encode(value, refer, depth=0):
  """JSON for `value`. A subclass is sent as its plain base type, read by the base's own methods; the rest goes to `refer`."""
  if depth > MAX_DEPTH:
    raise ValueError("nested too deep")
  if value is None or type(value) in (bool, float, str):
    return value
  inner = lambda x: encode(x, refer, depth + 1)
  if isinstance(value, list):
    return [inner(x) for x in list.__iter__(value)]
  if isinstance(value, float):
    return float.__float__(value)
  if isinstance(value, str):
    return str.__str__(value)
  if isinstance(value, int):
    value = int.__int__(value)
    return value if -2**53 < value < 2**53 else {"t": "int", "v": hex(value)}
  if isinstance(value, tuple) and hasattr(type(value), "_fields"):
    return {"t": "namedtuple", "v": inner([*tuple.__iter__(value)]), "fields": [str(x) for x in type(value)._fields]}
  kind = next((kind for kind in type(value).__mro__ if kind in PARTS), None)
  if kind:
    return {"t": kind.__name__, "v": inner(PARTS[kind][0](value))}
  if type(value) is type and getattr(builtins, value.__name__, None) is value:
    return {"t": "type", "v": value.__name__}
  return refer(value)


def decode(value, resolve):
  """Inverse of `encode`. Builds only the types named here; every other tag goes to `resolve`. Raises on anything malformed."""
  if isinstance(value, list):
    return [decode(x, resolve) for x in value]
  if not isinstance(value, dict):
    return value
  tag, body = value["t"], value["v"]
  if tag in MAKE:
    return MAKE[tag](decode(body, resolve))
  if tag == "namedtuple":
    return collections.namedtuple("namedtuple", value["fields"])(*decode(body, resolve))
  if tag == "type" and type(getattr(builtins, body)) is type:
    return getattr(builtins, body)
  return resolve(value)


def receive(read):
  """One length-prefixed JSON message from `read(n)`; EOFError at the end, ValueError for anything that is not one."""
  def exactly(n):
    parts = bytearray()
    while len(parts) < n:
      part = read(min(1 << 16, n - len(parts)))
      if not part:
        raise EOFError
      parts += part
    return bytes(parts)
  length, = struct.unpack("<I", exactly(4))
  if length > MAX_MESSAGE:
    raise ValueError("message too long")
  return json.loads(exactly(length))


class Gone(BaseException):
  """The other process died or broke the protocol. Not an Exception: no `except Exception` in a test may swallow it."""


class Wire:
  """One end of the conversation of two processes. While it waits for a reply it serves the other's requests (callbacks)."""

  def __init__(self, read_fd, write_fd, serve):
    self.read_fd, self.write_fd, self.serve, self.gone = read_fd, write_fd, serve, False

  def send(self, message):
    body = json.dumps(message).encode()
    if len(body) > MAX_MESSAGE:
      raise ValueError("value too large")
    body = struct.pack("<I", len(body)) + body
    while body:
      body = body[os.write(self.write_fd, body):]

  def next_reply(self):
    """Serves requests until a reply comes; whatever is not a well-formed message makes the other side count as gone."""
    while not self.gone:
      try:
        message = receive(lambda n: os.read(self.read_fd, n))
        if "op" not in message:
          return message
        reply = self.serve(message)
        try:
          self.send(reply)
        except ValueError as error:
          self.send(describe(error))
      except Exception as error:
        self.gone = True
        raise Gone from error
    raise Gone

  def ask(self, message):
    try:
      self.send(message)
    except OSError as error:  # it died since the last reply: not an error that a test may take for the answer's
      self.gone = True
      raise Gone from error
    return self.next_reply()


def describe(error):
  """An exception as plain data: the names of its classes, most derived first, and its message."""
  try:
    message = str(error.args[0] if len(error.args) == 1 and isinstance(error.args[0], str) else error)[:1000]
  except Exception:  # an answer's __str__ may raise anything
    message = ""
  return {"err": [str(kind.__name__)[:100] for kind in type(error).__mro__], "message": message}


def revive(reply, known):
  """The nearest builtin (or `known`) Exception class of a described error.

  StopIteration is passed over: raised by f it would end `all(map(f, ...))` as if every item had passed.
  """
  for name in reply["err"]:
    kind = known.get(name) or getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, (StopIteration, StopAsyncIteration)):
      with contextlib.suppress(TypeError):  # UnicodeDecodeError needs five arguments
        return kind(str(reply["message"]))
  return RuntimeError(f"the answer raised {reply['err'][:1]}")


# ------------------------------------------------------------------------------------------------ solver: the answer lives here
FENCE = re.compile(r"```[ \t]*([A-Za-z0-9_+.-]*)[^\n`]*\n(.*?)(?:^[ \t]*```|```[ \t]*\r?$|\Z)", re.S | re.M)


def extract(text, names=()):
  """The program in an answer's text: its fenced Python blocks up to the last one that defines one of `names`, or all of it.

  Blocks before it count if they define anything (helpers, imports, constants), blocks after it are usage and do not.
  """
  text = text.replace("\r\n", "\n").lstrip("\ufeff")
  blocks = [textwrap.dedent(body) for lang, body in FENCE.findall(text) if lang.lower() in ("", "python", "py", "python3")]
  if "```" in text and parsed(text) is not None:
    return text  # the fence stands inside a string or a comment of a program
  if len(blocks) < 2:
    return blocks[0] if blocks else text
  defined = [definitions(parsed(block)) for block in blocks]
  hits = [i for i, found in enumerate(defined) if found & set(names)]
  last = hits[-1] if hits else max((i for i, found in enumerate(defined) if found), default=len(blocks) - 1)
  return "\n".join(blocks[i] for i in range(last + 1) if defined[i] or i == last)


def parsed(code):
  """The syntax tree, or None where there is none (also for source that is too deep or holds a NUL or a surrogate)."""
  try:
    return ast.parse(code)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return None


def definitions(tree):
  """Names that the statements of `tree` bind at top level."""
  found = set()
  for node in tree.body if tree else ():
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
      found.add(node.name)
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
      found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
      found |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
  return found


OPERATORS = {n: getattr(operator, n) for n in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")}
OPERATIONS = {"get": getattr, "set": setattr, "bool": bool, "len": len, "str": str, "repr": repr, "iter": iter, **OPERATORS,
              "item": operator.getitem, "set_item": operator.setitem, "isinstance": lambda kind, o: isinstance(o, kind)}


def failing(error):
  """An iterator that raises `error` when it is read."""
  raise error
  yield


def supply(found, refer):
  """The first message to the judge: what the names that it needs stand for; an exception class by the names of its bases."""
  raised = {n: v for n, v in found.items() if isinstance(v, type) and issubclass(v, Exception)}
  return {"values": {n: encode(v, refer) for n, v in found.items()},
          "exceptions": {n: [kind.__name__ for kind in v.__mro__] for n, v in raised.items()}}


def solver(read_fd, write_fd):
  """Executes the answer, then serves the judge's requests until killed."""
  objects, index = [], {}  # objects are kept alive, so an id() stays theirs
  iterators = {}

  def refer(value):
    if id(value) not in index:
      index[id(value)] = len(objects)
      objects.append(value)
    lazy = type(value).__module__ in ("builtins", "itertools") and hasattr(type(value), "__next__")
    return {"t": "iterator" if lazy else "remote", "v": index[id(value)]}

  def resolve(value):
    if value["t"] == "remote":
      return objects[value["v"]]
    if value["t"] == "iterator":
      return iter([decode(x, resolve) for x in value["v"]])
    number = value["v"]
    return lambda *args: finish(wire.ask({"op": "callback", "o": number, "args": encode(args, refer)}))

  def finish(reply):
    if "err" in reply:
      raise revive(reply, {})
    return decode(reply["v"], resolve)

  def pull(number, count):
    """Up to `count` items of an iterator. An error after the first item waits for the next call."""
    source, items = iterators.setdefault(number, iter(objects[number])), []
    try:
      items.extend(itertools.islice(source, count))
    except Exception as error:
      if not items:
        raise
      iterators[number] = failing(error)
    return items

  def perform(request):
    op, target = request["op"], objects[request["o"]]
    args = decode(request.get("args", []), resolve)
    if op == "call":
      value = target(*args, **decode(request["kwargs"], resolve))
      changed = [encode(a, refer) if isinstance(a, MUTABLE) else None for a in args] if request["in_place"] else []
      return {"v": encode(value, refer), "changed": changed}
    return {"v": encode(pull(request["o"], *args) if op == "pull" else OPERATIONS[op](target, *args), refer)}

  def serve(request):
    try:
      return perform(request)
    except BaseException as error:  # SystemExit and the like: the answer's own doing, reported like any error
      return describe(error)

  wire = Wire(read_fd, write_fd, serve)
  job = receive(lambda n: os.read(read_fd, n))
  module = sys.modules["solution"] = types.ModuleType("solution")
  try:
    exec(compile(extract(job["text"], job["names"]), "<solution>", "exec", dont_inherit=True), module.__dict__)
    wire.send(supply({n: module.__dict__[n] for n in job["names"] if n in module.__dict__}, refer))
    wire.next_reply()
  except BaseException as error:
    wire.send(describe(error))


# ------------------------------------------------------------------------------------------------ judge: the tests live here
MUTABLE = (list, dict, set, bytearray, collections.deque)
OBJECT, RESULT, PART = "object", "result", "part"  # what a Remote came from, which tells what tests may do with it


def needed_names(setup, tests, reference):
  """Names that the answer must supply, and the import lines that the judge needs for the rest.

  The former are free in the tests, or defined by the reference, used by the tests and not defined there. An imported name is
  never the answer's to supply: its own `math.isclose` could call everything close.
  """
  trees = [tree for tree in map(parsed, [setup, *tests]) if tree]
  nodes = [node for tree in trees for node in ast.walk(tree)]
  names = [n for n in nodes if isinstance(n, ast.Name)]
  used = {n.id for n in names if isinstance(n.ctx, ast.Load)}
  bound = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
  bound |= {n.arg for n in nodes if isinstance(n, ast.arg)} | {n.name for n in nodes if isinstance(n, ast.ExceptHandler)}
  own = {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
  own |= {(a.asname or a.name).split(".")[0] for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom)) for a in n.names}
  called = [{n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            for tree in map(parsed, tests) if tree]
  answer = parsed(reference) or ast.Module([], [])
  imports = [n for n in answer.body if isinstance(n, (ast.Import, ast.ImportFrom))]
  lines = [ast.unparse(n) for n in imports if definitions(ast.Module([n], [])) & used]
  imported = definitions(ast.Module(imports, []))
  modules = {n for n in used - bound - own - definitions(answer) if n in sys.stdlib_module_names} - set().union(*called)
  lines += [f"import {n}" for n in sorted(modules)]
  free = {n for n in used - bound - own - imported - modules if not hasattr(builtins, n)}
  needed = free | ((definitions(answer) - imported) & used - own)
  # no such name at all: the answer's function is called like a builtin, which then every test calls
  return sorted(needed or set.intersection(*called or [set()]) - own), lines


class Link:
  """The judge's end: what the answer returned, as data or as Remotes, and the callables that the tests handed it."""

  def __init__(self, read_fd, write_fd):
    self.wire = Wire(read_fd, write_fd, self.serve)
    self.callbacks, self.remotes, self.exceptions = [], {}, {}

  def refer(self, value):
    if type(value) is Remote:
      return {"t": "remote", "v": value._number}
    if isinstance(value, collections.abc.Iterator):
      return {"t": "iterator", "v": [encode(x, self.refer) for x in value]}
    if callable(value):
      self.callbacks.append(value)
      return {"t": "callback", "v": len(self.callbacks) - 1}
    raise TypeError(f"a test cannot pass a {type(value).__name__} to the answer")

  def resolve(self, value, trust=RESULT):
    tag, number = value["t"], value["v"]
    if tag not in ("remote", "iterator") or type(number) is not int:
      raise ValueError(tag)
    remote = self.remotes.setdefault((number, trust), Remote(self, number, trust))  # one each, so that `is` works
    return remote if tag == "remote" else remote._items()

  def serve(self, request):
    """A call from the answer to something callable that a test passed to it."""
    callback, args = self.callbacks[request["o"]], decode(request["args"], self.resolve)
    try:
      return {"v": encode(callback(*args), self.refer)}
    except Exception as error:
      return describe(error)

  def ask(self, op, remote, args=(), **more):
    """The decoded value of one operation on `remote` in the solver; raises what the answer raised."""
    request = {"op": op, "o": remote._number, "args": [encode(a, self.refer) for a in args], **more}
    trust = remote._trust if remote._trust != RESULT else PART if op == "get" else RESULT
    return self.read(self.wire.ask(request), args, trust)

  def read(self, reply, args=(), trust=RESULT):
    try:
      error = revive(reply, self.exceptions) if "err" in reply else None
      value = None if error else decode(reply["v"], lambda v: self.resolve(v, trust))
      for before, after in zip(args, [] if error else reply.get("changed", [])):
        after = decode(after, self.resolve)
        if isinstance(before, MUTABLE) and type(before) is type(after):
          before.clear()
          (before.update if isinstance(before, (dict, set)) else before.extend)(after)
    except Exception as malformed:
      self.wire.gone = True
      raise Gone from malformed
    if error:
      raise error
    return value


class Remote:
  """Something that lives in the solver: a function or class of the answer, or an object that is not plain data.

  Nothing expected ever reaches it: it cannot be compared with data, and only classes that the tests ask for and what comes
  from them (OBJECT) have methods, len, indexing and str. What a function returns (RESULT) must be data to have those, or an
  object whose startswith(expected) always says True would pass; it can be called, and its attributes (PART) read.
  """

  def __init__(self, link, number, trust):
    self.__dict__.update(_link=link, _number=number, _trust=trust)

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return self._link.ask("get", self, [name])

  def __setattr__(self, name, value):
    self._link.ask("set", self, [name, value])

  def __call__(self, *args, **kwargs):
    return self._call(args, kwargs, False)

  def _call(self, args, kwargs, in_place):
    if self._trust == PART:
      raise TypeError("the answer's result is not plain data")
    kwargs = {"t": "dict", "v": [[k, encode(v, self._link.refer)] for k, v in kwargs.items()]}
    return self._link.ask("call", self, args, kwargs=kwargs, in_place=in_place)

  def _items(self):
    count = 1
    while items := self._link.ask("pull", self, [count]):
      yield from items
      count = min(2 * count, 4096)  # few round trips for long lists, little run ahead for generators

  def __iter__(self):
    items = self._link.ask("iter", self)
    return items._items() if type(items) is Remote else iter(items)

  def _of_class(self, op, *args):
    if self._trust != OBJECT:
      raise TypeError("the answer's result is not plain data")
    return self._link.ask(op, self, args)

  def __next__(self):
    for item in self._link.ask("pull", self, [1]):
      return item
    raise StopIteration

  def __eq__(self, other):
    if type(other) is Remote and other._number == self._number:
      return True
    raise TypeError("an object of the answer cannot be compared")

  __ne__ = __lt__ = __le__ = __gt__ = __ge__ = lambda self, other: self.__eq__(None)
  __hash__ = None
  __bool__ = lambda self: self._link.ask("bool", self) is True
  __len__ = lambda self: self._of_class("len")
  __getitem__ = lambda self, key: self._of_class("item", key)
  __setitem__ = lambda self, key, value: self._of_class("set_item", key, value)
  __repr__ = lambda self: self._of_class("repr") if self._trust == OBJECT else "<object of the answer>"
  __str__ = lambda self: self._of_class("str") if self._trust == OBJECT else "<object of the answer>"
  __instancecheck__ = lambda self, other: type(other) is Remote and self._link.ask("isinstance", self, [other]) is True


def operator_of(name):
  def operate(self, other):  # data on the other side could be the expected value: `abs(f(x) - 3.5) < 1e-6`
    return self._of_class(name, other) if type(other) is Remote else NotImplemented
  return operate


for _name in OPERATORS:
  setattr(Remote, f"__{_name}__", operator_of(_name))


class InPlace(ast.NodeTransformer):
  """`f(a)` alone on a line is there for what it does to `a`: only then a change to `a` is taken over.

  Elsewhere it must not be: `assert f(a) == sorted(a)` would pass for an f that empties `a` and returns [].
  """

  def visit_Expr(self, node):
    if isinstance(node.value, ast.Call):
      node.value = ast.Call(ast.Name("__in_place__", ast.Load()), [node.value.func, *node.value.args], node.value.keywords)
    return ast.fix_missing_locations(node)


def in_place(function, *args, **kwargs):
  return function._call(args, kwargs, True) if type(function) is Remote else function(*args, **kwargs)


def missing(name):
  """Stands for a name that the answer did not define, so that a builtin of that name does not step in."""
  def raise_name_error(*args, **kwargs):
    raise NameError(f"name {name!r} is not defined by the answer")
  return raise_name_error


def judge(read_fd, write_fd, client_fd):
  """Reads a job, has the solver load the answer, runs the tests one by one, sends {"results", "error"} to the client."""
  job = receive(lambda n: os.read(client_fd, n))
  results, error = [], None
  link = Link(read_fd, write_fd)
  try:
    names, imports = needed_names(job["setup"], job["tests"], job["reference"])
    supplied = load(link, job, names)
    space = {"__name__": "tests", "__in_place__": in_place}
    exec("\n".join(imports), space)
    space.update(supplied)
    exec(compile(job["setup"], "<setup>", "exec"), space)
    space.update(supplied)
    for test in job["tests"]:
      try:
        exec(compile(InPlace().visit(ast.parse(test)), "<test>", "exec"), space)
        results.append(not link.wire.gone)
      except BaseException as failure:
        results.append(False)
        error = error or brief(failure)
    if link.wire.gone:
      error = "the answer's process died" if error is None or error.startswith("Gone") else error
  except BaseException as failure:  # also SystemExit from setup code: the client is owed an answer
    error = "before the tests: " + brief(failure)
  results += [False] * (len(job["tests"]) - len(results))
  Wire(client_fd, client_fd, None).send({"results": results, "error": error})


def brief(error):
  """An exception in one printable line: parts of it may be the answer's text, which must not break a log."""
  return " ".join(f"{type(error).__name__}: {error}".encode("ascii", "backslashreplace").decode().split())[:200]


def load(link, job, names):
  """Sends the answer to the solver; returns what each needed name stands for in the tests."""
  reply = link.wire.ask({"text": job["code"], "names": names})
  if "err" in reply:
    link.read(reply)
  classes = {n.name for n in ast.walk(parsed(job["reference"]) or ast.Module([], [])) if isinstance(n, ast.ClassDef)}
  supplied = {}
  for name in names:
    if name in reply["exceptions"]:  # a class of the judge's own, so that `except` works
      base = type(revive({"err": reply["exceptions"][name][1:], "message": ""}, {}))
      supplied[name] = link.exceptions[name] = type(name, (base,), {})
    elif name in reply["values"]:
      trust = OBJECT if (name in classes if job["reference"] else name[:1].isupper()) else RESULT
      supplied[name] = decode(reply["values"][name], lambda v, trust=trust: link.resolve(v, trust))
    else:
      supplied[name] = missing(name)
  return supplied


# ------------------------------------------------------------------------------------------------ lockdown
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
CLONE_NEWIPC, CLONE_NEWNET, CLONE_THREAD = 0x08000000, 0x40000000, 0x00010000
# What a program needs that computes, allocates, sleeps, starts threads and talks over open pipes. No open, socket, exec, kill.
SYSCALLS = {  # machine: its AUDIT_ARCH, then name=number
    "x86_64": (0xC000003E, """
        read=0 write=1 close=3 fstat=5 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14
        rt_sigreturn=15 select=23 sched_yield=24 mremap=25 madvise=28 nanosleep=35 getpid=39 clone=56 exit=60 uname=63
        gettimeofday=96 getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110
        sigaltstack=131 gettid=186 time=201 futex=202 sched_getaffinity=204 restart_syscall=219 clock_gettime=228
        clock_getres=229 clock_nanosleep=230 exit_group=231 pselect6=270 ppoll=271 set_robust_list=273 prlimit64=302
        getrandom=318 membarrier=324 rseq=334 clone3=435"""),
    "aarch64": (0xC00000B7, """
        close=57 lseek=62 read=63 write=64 pselect6=72 ppoll=73 fstat=80 exit=93 exit_group=94 futex=98 set_robust_list=99
        nanosleep=101 clock_gettime=113 clock_getres=114 clock_nanosleep=115 sched_getaffinity=123 sched_yield=124
        restart_syscall=128 sigaltstack=132 rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 times=153 uname=160
        getrusage=165 gettimeofday=169 getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178
        sysinfo=179 brk=214 munmap=215 mremap=216 clone=220 mmap=222 mprotect=226 madvise=233 prlimit64=261 getrandom=278
        membarrier=283 rseq=293 clone3=435"""),
}


def seccomp_filter(machine):
  """The default-deny BPF program (seccomp(2)) as bytes; empty on a machine whose call numbers are not known here."""
  if machine not in SYSCALLS:
    return b""
  arch, table = SYSCALLS[machine]
  calls = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", table)}
  load, equal, bits, ret = 0x20, 0x15, 0x45, 0x06
  allow, kill, fail = 0x7FFF0000, 0x80000000, 0x00050000
  code = [(load, 0, 0, 4), (equal, 1, 0, arch), (ret, 0, 0, kill), (load, 0, 0, 0)]  # a foreign ABI ends the process
  for name, number in calls.items():
    if name not in ("clone", "clone3", "prlimit64"):
      code += [(equal, 0, 1, number), (ret, 0, 0, allow)]
  # clone3 takes its flags by pointer, which a filter cannot read: say that it does not exist, libc then falls back to clone
  code += [(equal, 0, 1, calls["clone3"]), (ret, 0, 0, fail | errno.ENOSYS)]
  # clone for threads only: no second process, so nothing outlives the job
  code += [(equal, 0, 4, calls["clone"]), (load, 0, 0, 16), (bits, 0, 1, CLONE_THREAD), (ret, 0, 0, allow),
           (ret, 0, 0, fail | errno.EPERM)]
  # prlimit64 to read a limit only: both halves of the pointer to a new one must be zero
  code += [(equal, 0, 5, calls["prlimit64"]), (load, 0, 0, 32), (equal, 0, 3, 0), (load, 0, 0, 36), (equal, 0, 1, 0),
           (ret, 0, 0, allow), (ret, 0, 0, fail | errno.EPERM)]
  return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


class FilterProgram(ctypes.Structure):
  _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]


def prctl(*args):
  """prctl(2) through libc; nonzero where the kernel refuses."""
  return ctypes.CDLL(None, use_errno=True).prctl(*args, *[0] * (5 - len(args)))


def become(uid):
  os.setgroups([])
  os.setresgid(uid, uid, uid)
  os.setresuid(uid, uid, uid)


def enter_jail(jail_fd):
  os.fchdir(jail_fd)
  os.chroot(".")


def filter_calls(program):
  prctl(PR_SET_NO_NEW_PRIVS, 1)
  if not program or prctl(PR_SET_SECCOMP, 2, ctypes.byref(FilterProgram(len(program) // 8, program))) != 0:
    raise OSError("no seccomp")


def lock_down(config, keep, uid):
  """Irreversible. Descriptors but `keep` close, limits, empty root, another user, no new privileges, few system calls."""
  os.setsid()
  if config["chroot"]:
    enter_jail(config["jail"])
  last = 3
  for fd in sorted(keep):
    os.closerange(last, fd)
    last = fd + 1
  os.closerange(last, 4096)
  seconds = int(config["wall"]) + 2  # the wall clock decides; this only catches what a lost worker left behind
  limits = {resource.RLIMIT_AS: config["address_space"], resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: 0,
            resource.RLIMIT_NOFILE: 16, resource.RLIMIT_CORE: 0, resource.RLIMIT_MEMLOCK: 0}
  if config["uid"]:
    limits[resource.RLIMIT_NPROC] = 64
  for what, limit in limits.items():
    resource.setrlimit(what, (limit, limit))
  if config["uid"]:
    become(uid)
  prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
  if os.getppid() != config["worker"]:
    os._exit(1)
  prctl(PR_SET_DUMPABLE, 0)
  prctl(PR_SET_NO_NEW_PRIVS, 1)
  if config["seccomp"]:
    filter_calls(config["filter"])


# ------------------------------------------------------------------------------------------------ worker
# What answers and tests may import: everything is loaded before the lockdown, after which no file can be opened.
PRELOAD = """
abc array ast atexit base64 binascii bisect builtins calendar cmath codecs collections collections.abc colorsys contextlib
contextvars copy csv ctypes dataclasses datetime decimal difflib dis email.utils encodings.ascii encodings.cp1252
encodings.hex_codec encodings.idna encodings.latin_1 encodings.raw_unicode_escape encodings.rot_13 encodings.unicode_escape
encodings.utf_16 encodings.utf_32 encodings.utf_8_sig enum fnmatch fractions functools gc glob graphlib gzip hashlib heapq
hmac html inspect io ipaddress itertools json keyword linecache locale logging math multiprocessing numbers operator os
os.path pathlib pickle platform pprint queue random re reprlib resource sched secrets select shlex shutil signal socket stat
statistics string struct subprocess sys tempfile textwrap threading time timeit token tokenize traceback types typing
unicodedata unittest unittest.mock urllib.parse uuid warnings weakref zlib zoneinfo _strptime _pydecimal concurrent.futures
asyncio"""


def child(function, *args):
  """Forks a process that runs function(*args) and nothing else; returns its pid."""
  pid = os.fork()
  if pid == 0:
    status = 1
    try:
      function(*args)
      status = 0
    finally:
      os._exit(status)
  return pid


def works(function, *args):
  """Whether function(*args) succeeds in a throw-away process: which layers a machine gives is found by trying."""
  return os.waitpid(child(function, *args), 0)[1] == 0


def probe_filter(program):
  filter_calls(program)
  with contextlib.suppress(PermissionError):
    os.open("/dev/null", os.O_RDONLY)
    raise OSError("the filter does not filter")


def worker(control_fd, config):
  """Serves jobs from the control socket until the client closes it or dies."""
  control, parent = socket.socket(fileno=control_fd), os.getppid()
  for name in PRELOAD.split():
    with contextlib.suppress(ImportError):
      importlib.import_module(name)
  sys.setrecursionlimit(1100)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  prctl(PR_SET_CHILD_SUBREAPER, 1)
  prctl(PR_SET_DUMPABLE, 0)
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])  # RLIMIT_AS counts what is mapped already
  uids = (2**20 + 2 * os.getpid(), 50000 + 2 * (os.getpid() % 5000))  # the second fits the 65,536 users of a rootless container
  path = tempfile.mkdtemp()
  config |= {"worker": os.getpid(), "address_space": pages * resource.getpagesize() + config["memory"],
             "jail": os.open(path, os.O_RDONLY), "filter": seccomp_filter(os.uname().machine)}
  os.rmdir(path)  # a directory that is gone stays usable as a root, is empty for ever, and leaves nothing behind
  config["chroot"] = works(enter_jail, config["jail"])
  config["uid"] = next((uid for uid in uids if works(become, uid)), 0)
  config["seccomp"] = works(probe_filter, config["filter"])
  config["network"] = os.geteuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0
  os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
  gc.collect()
  gc.freeze()
  control.send(json.dumps({layer: bool(config[layer]) for layer in ("seccomp", "uid", "chroot", "network")}).encode())
  waiting = select.poll()
  waiting.register(control, select.POLLIN)
  while os.getppid() == parent:
    if waiting.poll(5000):
      message, fds, _, _ = socket.recv_fds(control, 64, 1)
      if not message:
        break
      control.send(json.dumps({"timeout": run_job(config, control, fds[0])}).encode())


def run_job(config, control, client_fd):
  """Forks solver and judge, kills both when the judge is done or time is up; returns whether it was time that ended it."""
  deadline = time.monotonic() + config["wall"]
  judge_read, solver_write = os.pipe()
  solver_read, judge_write = os.pipe()
  alive_read, alive_write = os.pipe()  # only the judge keeps the write end: a hang-up tells that it ended

  def run_solver():
    lock_down(config, {solver_read, solver_write}, config["uid"])
    solver(solver_read, solver_write)

  def run_judge():
    lock_down(config, {judge_read, judge_write, client_fd, alive_write}, config["uid"] + 1)
    judge(judge_read, judge_write, client_fd)

  pids = [child(run_solver)]
  for fd in (solver_read, solver_write):
    os.close(fd)
  pids.append(child(run_judge))
  for fd in (judge_read, judge_write, client_fd, alive_write):
    os.close(fd)
  waiting = select.poll()
  waiting.register(alive_read, 0)
  waiting.register(control, select.POLLRDHUP)  # the trainer is gone: stop at once
  ended = waiting.poll(max(0, deadline - time.monotonic()) * 1000)
  for pid in pids:
    os.kill(pid, signal.SIGKILL)  # both are unreaped children of ours: the pids cannot have been reused
  for pid in pids:
    os.waitpid(pid, 0)
  if not config["seccomp"]:
    sweep(config["uid"])
  os.close(alive_read)
  return not ended


def sweep(uid):
  """Without a filter an answer may have forked: as its user kill all that it may kill, in one call, then reap the orphans."""
  def kill_all():
    become(uid)
    os.kill(-1, signal.SIGKILL)
  works(kill_all)
  with contextlib.suppress(ChildProcessError):
    while True:
      os.waitpid(-1, 0)


if __name__ == "__main__":
  if sys.argv[1:2] != ["--worker"]:
    sys.exit("sandbox.py is imported, or started by its client; it has no command line of its own")
  worker(int(sys.argv[2]), json.loads(sys.argv[3]))
