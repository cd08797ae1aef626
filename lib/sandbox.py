"""Run an answer's code against tests it cannot see, and report a verdict it cannot forge.

Imported, this file is the client: `Sandbox.run` sends jobs to worker processes and returns verdicts. Run as
`python -I -S -B sandbox.py --worker FD SECONDS` it is a worker, which forks two locked-down processes for each job:

  solver  executes the answer and serves "call f(args)"; never sees a test or an expected value
  judge   executes the tests; each name that the answer must define is a Remote that asks the solver

Between them travels tagged plain data, never pickle and never a comparison: asserts, builtins and expected values exist only in
the judge, so no answer can decide whether it passed. A worker imports the standard library once, never reads a job itself, and
so forks every job from the same clean memory. Each job ends by SIGKILL at `wall_seconds` at the latest.

  with sandbox.Sandbox(workers=2) as box:
    verdict, = box.run([{"code": "def f(x): return x * x", "tests": ["assert f(3) == 9"]}])

Limits: a change that the answer makes in place to an argument is not seen by the tests; objects of the answer's own classes can
be built, called and asked for attributes, but compared by identity only; only PRELOAD can be imported.
"""

import ast
import builtins
import collections
import concurrent.futures
import contextlib
import ctypes
import datetime
import decimal
import fractions
import gc
import itertools
import json
import os
import queue
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import types
from typing import NamedTuple

MAX_CODE = 1 << 16  # characters of an answer; also keeps the compiler's worst cases short
MAX_MESSAGE = 4 << 20  # bytes of one message between two processes
MEMORY = 512 << 20  # bytes of address space that a job may add to its worker's
GRACE_SECONDS = 2.0  # how much longer than its job a worker may take before it counts as lost


class SandboxUnavailable(RuntimeError):
  """This machine cannot isolate code; the message says what is missing and what to do."""

  def __init__(self, why):
    super().__init__(f"the code sandbox {why}")


class Verdict(NamedTuple):
  passed: bool  # every test passed, and there was at least one
  results: list  # one bool per test
  error: str | None  # first thing that went wrong, in a few words


# ------------------------------------------------------------------------------------------------ client
class Worker:
  """One worker process: started again when it was lost."""

  def __init__(self, wall_seconds):
    self.wall_seconds, self.process, self.layers = wall_seconds, None, {}

  def start(self):
    self.control, theirs = socket.socketpair()
    self.control.settimeout(30)
    arguments = [
      "-I",
      "-S",
      "-B",
      os.path.abspath(__file__),
      "--worker",
      str(theirs.fileno()),
      str(self.wall_seconds),
    ]
    try:
      # Without preexec_fn CPython starts the child by vfork: the trainer never forks, no at-fork hook of JAX runs.
      # The environment is fixed: no token of the trainer's can be read, and string hashes repeat.
      with theirs:
        self.process = subprocess.Popen(
          [sys.executable, *arguments],
          pass_fds=[theirs.fileno()],
          cwd="/",
          env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
          start_new_session=True,
          **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL),
        )
      self.layers = json.loads(self.control.recv(4096))
    except (OSError, ValueError) as error:
      self.stop()
      raise SandboxUnavailable(
        f"cannot start {sys.executable!r} as a worker ({error}); expected a Python to run"
      ) from None
    self.control.settimeout(self.wall_seconds + GRACE_SECONDS)
    if not (self.layers["seccomp"] or self.layers["uid"] and self.layers["chroot"]):
      self.stop()
      raise SandboxUnavailable(
        "cannot isolate code: no seccomp filter here, and not root; expected either one; "
        "run as root or allow seccomp in the container"
      )

  def stop(self):
    self.control.close()
    if self.process is not None:
      self.process.kill()
      self.process.wait()
      self.process = None

  def run(self, job):
    """The Verdict of one job; whatever the job holds, and whatever its code does, is a Verdict too."""
    job = {key: job.get(key) or "" for key in ("code", "setup", "reference")} | {
      "tests": [*(job.get("tests") or ())]
    }
    results, texts = (
      [False] * len(job["tests"]),
      (job["code"], job["setup"], job["reference"], *job["tests"]),
    )
    bad = (
      "no tests"
      if not results
      else "code and tests must be text"
      if not all(isinstance(text, str) for text in texts)
      else f"code longer than {MAX_CODE} characters"
      if len(job["code"]) > MAX_CODE
      else None
    )
    if bad:
      return Verdict(False, results, bad)
    try:
      if self.process is None:
        self.start()
      answer, error = self.exchange(job)
    except (OSError, SandboxUnavailable):
      self.stop()  # gone or stuck: drop it, the next job starts a clean one
      answer, error = None, "worker lost"
    results = answer or results
    return Verdict(all(results), results, error)

  def exchange(self, job):
    """Hands the judge its end of a fresh socket, waits for its [results, error], then has the worker kill both processes."""
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rb") as stream:
      with theirs:
        socket.send_fds(self.control, [b"J"], [theirs.fileno()])
      ours.settimeout(self.wall_seconds)
      try:
        ours.sendall(pack(job))
        answer = receive(stream)
      except TimeoutError:
        answer = None, "timeout"
      except (OSError, ValueError):
        answer = None, "judge died"
    self.control.sendall(b"K")
    if not self.control.recv(1):
      raise ConnectionError("the worker is gone")
    return answer


class Sandbox(contextlib.AbstractContextManager):
  """A pool of `workers` processes (None: one per usable core, at most 8) that run answers' code; several threads may share it.
  `layers` tells which layers of isolation this machine gives. Raises SandboxUnavailable where they do not suffice.
  """

  def __init__(self, workers=None, wall_seconds=3.0):
    if not sys.platform.startswith("linux"):
      raise SandboxUnavailable(f"needs Linux, found {sys.platform}")
    self.workers = [
      Worker(wall_seconds) for _ in range(workers or min(8, len(os.sched_getaffinity(0))))
    ]
    self.pool = concurrent.futures.ThreadPoolExecutor(
      len(self.workers), thread_name_prefix="sandbox"
    )
    self.idle = queue.SimpleQueue()
    for worker in self.workers:
      self.idle.put(worker)
    try:
      list(self.pool.map(Worker.start, self.workers))
    except BaseException:
      self.close()
      raise
    self.layers = self.workers[0].layers

  def run(self, jobs):
    """Verdicts of `jobs`, in order, each within `wall_seconds` of real time; a bad job fails, none raises.

    A job is {"code": an answer's text, of which the fenced Python blocks count, "tests", "setup": runs before them, in the judge,
    "reference": code of a right answer, which tells what names the answer must define; without it, the tests' free names}.
    """

    def run_one(job):
      worker = self.idle.get()
      try:
        return worker.run(job)
      finally:
        self.idle.put(worker)

    return list(self.pool.map(run_one, jobs))

  def close(self):
    self.pool.shutdown()
    for worker in self.workers:
      worker.stop()

  def __exit__(self, *exc):
    self.close()


# ------------------------------------------------------------------------------------------------ the wire: tagged plain data
PARTS = {  # a type that crosses the wire: (what its value is made of, read by the type's own methods; how it is made again)
  int: (hex, lambda v: int(v, 16)),
  float: (float.__float__, float),
  str: (str.__str__, str),
  **{
    t: (lambda v, t=t: [*t.__iter__(v)], t)
    for t in (list, tuple, set, frozenset, collections.deque)
  },
  **{
    t: (lambda v: [[k, x] for k, x in dict.items(v)], lambda v, t=t: t(dict(v)))
    for t in (dict, collections.OrderedDict, collections.Counter)
  },
  **{t: (t.hex, t.fromhex) for t in (bytes, bytearray)},
  complex: (lambda v: [v.real, v.imag], lambda v: complex(*v)),
  range: (lambda v: [v.start, v.stop, v.step], lambda v: range(*v)),
  decimal.Decimal: (str, decimal.Decimal),
  fractions.Fraction: (str, fractions.Fraction),
  datetime.timedelta: (
    lambda v: [v.days, v.seconds, v.microseconds],
    lambda v: datetime.timedelta(*v),
  ),
  **{t: (t.isoformat, t.fromisoformat) for t in (datetime.datetime, datetime.date, datetime.time)},
}
TYPES = {name: kind for name, kind in vars(builtins).items() if type(kind) is type}
ERRORS = {
  name: kind
  for name, kind in TYPES.items()
  if issubclass(kind, Exception) and kind not in (StopIteration, StopAsyncIteration)
}  # raised by f, it would end `all(map(f, ...))` as if every item had passed
MAKE = {"type": TYPES.__getitem__, **{kind.__name__: make for kind, (_, make) in PARTS.items()}}


def pack(message):
  """A message as one line of JSON."""
  line = json.dumps(message).encode() + b"\n"
  if len(line) > MAX_MESSAGE:
    raise ValueError("value too large")
  return line


def receive(stream):
  """The next message; ValueError for anything that is not one: the end of the stream, a line too long, no JSON."""
  line = stream.readline(MAX_MESSAGE)
  if not line.endswith(b"\n"):
    raise ValueError("cut short or too long")
  return json.loads(line)


class Gone(BaseException):
  """The other process died or broke the protocol. Not an Exception: no `except Exception` in a test may swallow it."""


class Peer:
  """One end of the conversation of two processes. While it waits for a reply it serves the other's requests (callbacks).

  What is not plain data stays where it is, and a number travels: {"t": "mine"} is the sender's object, {"t": "yours"} the
  receiver's. `operations` is all that the other side can have done with an object of this side, and `trust` what its Remotes
  get that it sends of its own accord.
  """

  def __init__(self, fd, operations, trust, shared=()):
    self.fd, self.reader, self.operations, self.trust, self.gone = (
      fd,
      os.fdopen(fd, "rb"),
      operations,
      trust,
      False,
    )
    self.shared, self.numbers, self.remotes = (
      [*shared],
      {},
      {},
    )  # shared objects stay alive, so an id() stays theirs

  def encode(self, value):
    """JSON for `value`. An object of a subclass is sent as the plain base type, so none of its own methods travel."""
    if (
      value is None
      or type(value) in (bool, float, str)
      or type(value) is int
      and value.bit_length() < 64
    ):
      return value
    if type(value) is list:
      return [self.encode(x) for x in value]
    if type(value) is type and TYPES.get(value.__name__) is value:
      return {"t": "type", "v": value.__name__}
    for kind in type(value).__mro__:
      if kind in PARTS:
        return {"t": kind.__name__, "v": self.encode(PARTS[kind][0](value))}
    if type(value) is Remote:
      return {"t": "yours", "v": value._number}
    if id(value) not in self.numbers:
      self.numbers[id(value)] = len(self.shared)
      self.shared.append(value)
    return {"t": "mine", "v": self.numbers[id(value)]}

  def decode(self, value, trust):
    """Inverse of `encode`: builds the types of MAKE, finds own objects, and makes Remotes. Raises on anything malformed."""
    if isinstance(value, list):
      return [self.decode(x, trust) for x in value]
    if not isinstance(value, dict):
      return value
    tag, body = value["t"], value["v"]
    if tag == "yours":
      return self.shared[body]
    if tag == "mine":
      return self.remotes.setdefault(
        (body, trust), Remote(self, body, trust)
      )  # one each, so that `is` works
    return MAKE[tag](self.decode(body, trust))

  def serve(self, request):
    """Does what the other side asks for, and tells it what came of it."""
    try:
      args, kwargs = (self.decode(request[key], self.trust) for key in ("args", "kwargs"))
      reply = pack(
        {
          "value": self.encode(
            self.operations[request["op"]](self.shared[request["on"]], *args, **kwargs)
          )
        }
      )
    except (
      BaseException
    ) as error:  # SystemExit and the like: the answer's own doing, reported like any error
      reply = pack({"error": describe(error)})
    os.write(self.fd, reply)

  def ask(self, op, number, trust, /, *args, **kwargs):
    """What `op` gives on the other side's object `number`, its Remotes trusted as `trust` says; raises what it raised."""
    request = pack(
      {"op": op, "on": number, "args": self.encode([*args]), "kwargs": self.encode(kwargs)}
    )
    try:
      if self.gone:
        raise EOFError
      os.write(self.fd, request)
      while "op" in (reply := receive(self.reader)):
        self.serve(reply)
      error = revive(reply["error"]) if "error" in reply else None
      value = None if error else self.decode(reply["value"], trust)
    except Exception as malformed:  # or dead since the last reply: not an error that a test may take for the answer's
      self.gone = True
      raise Gone("the answer's process died or broke the protocol") from malformed
    if error:
      raise error
    return value


def describe(error):
  """An exception as plain data: the names of its classes, most derived first, and its message."""
  try:
    message = str(
      error.args[0] if len(error.args) == 1 and isinstance(error.args[0], str) else error
    )[:1000]
  except Exception:  # an answer's __str__ may raise anything
    message = ""
  return [[str(kind.__name__)[:100] for kind in type(error).__mro__], message]


def revive(described):
  """The nearest of ERRORS to a described error."""
  names, message = described
  for name in names:
    with contextlib.suppress(
      KeyError, TypeError
    ):  # TypeError: UnicodeDecodeError needs five arguments
      return ERRORS[name](str(message))
  return RuntimeError(f"the answer raised {names[:1]}")


# Where a Remote came from, and what a test may therefore not do with it.
OBJECT, RESULT, PART = "object", "result", "part"
FORBIDDEN = {
  OBJECT: (),
  RESULT: ("len", "item", "str", "repr"),
  PART: ("len", "item", "str", "repr", "call"),
}


class Remote:
  """Something that lives in the other process: a function or class of the answer, or an object that is not plain data.

  Nothing expected ever reaches it: it cannot be compared with data, and only classes that the tests ask for and what comes
  from them (OBJECT) have methods, len, indexing and str. What a function returns (RESULT) must be data to have those, or an
  object whose startswith(expected) always says True would pass; it can be called, and its attributes (PART) read.
  """

  def __init__(self, peer, number, trust):
    self.__dict__.update(_peer=peer, _number=number, _trust=trust)

  def _ask(self, op, /, *args, **kwargs):
    if op in FORBIDDEN[self._trust]:
      raise TypeError("the answer's result is not plain data")
    trust = PART if op == "get" and self._trust == RESULT else self._trust
    return self._peer.ask(op, self._number, trust, *args, **kwargs)

  def __getattr__(self, name):
    if name.startswith("__"):
      raise AttributeError(name)
    return self._ask("get", name)

  def __next__(self):
    for item in self._ask("next"):
      return item
    raise StopIteration

  def __eq__(self, other):
    if type(other) is Remote and other._number == self._number:
      return True
    raise TypeError("an object of the answer cannot be compared")

  __ne__ = __lt__ = __le__ = __gt__ = __ge__ = lambda self, other: self.__eq__(None)
  __call__ = lambda self, /, *args, **kwargs: self._ask("call", *args, **kwargs)
  __setattr__ = lambda self, name, value: self._ask("set", name, value)
  __getitem__ = lambda self, key: self._ask("item", key)
  __iter__ = lambda self: self._ask("iter")
  __bool__ = lambda self: self._ask("bool") is True
  __len__ = lambda self: self._ask("len")
  __str__ = lambda self: self._ask("str")
  __repr__ = lambda self: self._ask("repr")
  __instancecheck__ = lambda self, other: (
    type(other) is Remote and self._ask("isinstance", other) is True
  )


# What a test's callback or iterator can be asked for, and what an answer's objects can be.
OF_TESTS = {
  "call": lambda f, /, *args, **kwargs: f(*args, **kwargs),
  "iter": iter,
  "next": lambda iterator: [*itertools.islice(iterator, 1)],
}
OF_ANSWER = {
  **OF_TESTS,
  "get": getattr,
  "set": setattr,
  "bool": bool,
  "len": len,
  "str": str,
  "repr": repr,
  "item": lambda o, key: o[key],
  "isinstance": lambda kind, o: isinstance(o, kind),
}

# ------------------------------------------------------------------------------------------------ solver: the answer lives here
IMPORTS = (ast.Import, ast.ImportFrom)
FENCE = re.compile(
  r"```[ \t]*([A-Za-z0-9_+.-]*)[^\n`]*\n(.*?)(?:^[ \t]*```|```[ \t]*\r?$|\Z)", re.S | re.M
)


def extract(text, names=()):
  """The program in an answer's text: its fenced Python blocks up to the last one that defines one of `names`, or all of it. The
  blocks before count if they define anything (helpers, imports, constants); those after it are usage and do not.
  """
  text = text.replace("\r\n", "\n").lstrip("\ufeff")
  blocks = [
    textwrap.dedent(body)
    for lang, body in FENCE.findall(text)
    if lang.lower() in ("", "python", "py", "python3")
  ]
  if not blocks or parsed(text).body:
    return text  # no fence, or it stands inside a string or a comment of a program
  defined = [definitions(parsed(block).body) for block in blocks]
  hits = [i for i, found in enumerate(defined) if found & set(names)] or [
    i for i, found in enumerate(defined) if found
  ]
  last = hits[-1] if hits else len(blocks) - 1
  return "\n".join(blocks[i] for i in range(last + 1) if defined[i] or i == last)


def parsed(code):
  """The syntax tree, empty where there is none (also for source that is too deep or holds a NUL or a surrogate)."""
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
      found |= {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
      }
  return found


def solver(fd):
  """Executes the answer when the judge asks for it, then serves the judge's requests until killed."""

  def load(text, names):
    module = sys.modules["solution"] = types.ModuleType("solution")
    exec(compile(extract(text, names), "<solution>", "exec", dont_inherit=True), module.__dict__)
    return {name: module.__dict__[name] for name in names if name in module.__dict__}

  peer = Peer(fd, OF_ANSWER, OBJECT, [load])
  while True:
    peer.serve(receive(peer.reader))


# ------------------------------------------------------------------------------------------------ judge: the tests live here
def needed_names(setup, tests, reference):
  """Names that the answer must supply, each with the trust its Remote gets, and the import lines that the judge needs. They are
  free in the tests, and either no builtin or defined by the reference. What the tests or the reference import is never the
  answer's to supply: its own `math.isclose` could call everything close.
  """
  answer, trees = parsed(reference), [parsed(text) for text in (setup, *tests)]
  used, bound = set(), set()
  for node in itertools.chain(*map(ast.walk, trees)):
    if isinstance(node, ast.Name):
      (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
    elif isinstance(node, (ast.arg, ast.ExceptHandler)):
      bound.add(node.arg if isinstance(node, ast.arg) else node.name)
    bound |= definitions([node])
  free, defined = used - bound, definitions(answer.body)
  called = [
    {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    for tree in trees[1:]
  ]
  imports = [n for n in answer.body if isinstance(n, IMPORTS) and definitions([n]) & free]
  free -= definitions(imports)
  modules = {n for n in free - defined if n in sys.stdlib_module_names}.difference(*called)
  # no such name at all: the answer's function is called like a builtin, which then every test calls
  names = {
    n for n in free - modules if n in defined or not hasattr(builtins, n)
  } or free.intersection(*called)
  classes = {n.name for n in ast.walk(answer) if isinstance(n, ast.ClassDef)}
  trust = {
    n: OBJECT if (n in classes if defined else n[:1].isupper()) else RESULT for n in sorted(names)
  }
  return trust, [*map(ast.unparse, imports), *(f"import {n}" for n in sorted(modules))]


def judge(fd, client_fd):
  """Reads a job, has the solver load the answer, runs the tests one by one, sends [results, error] to the client."""
  client, peer = os.fdopen(client_fd, "rb"), Peer(fd, OF_TESTS, RESULT)
  job, results, error = receive(client), [], None
  try:
    trust, imports = needed_names(job["setup"], job["tests"], job["reference"])
    values = peer.ask("call", 0, RESULT, job["code"], [*trust])
    supplied = {
      n: values.get(n) for n in trust if n in values or hasattr(builtins, n)
    }  # None: no builtin of that name steps in
    supplied |= {
      n: Remote(peer, v._number, trust[n]) for n, v in supplied.items() if type(v) is Remote
    }
    space = {"__name__": "tests"}
    exec("\n".join(imports), space)
    space.update(supplied)
    exec(compile(job["setup"], "<setup>", "exec"), space)
    space.update(supplied)
    for test in job["tests"]:
      try:
        exec(compile(test, "<test>", "exec"), space)
        results.append(not peer.gone)
      except BaseException as failure:
        results.append(False)
        error = error or brief(failure)
  except BaseException as failure:  # also SystemExit from setup code: the client is owed an answer
    error = "before the tests: " + brief(failure)
  results += [False] * (len(job["tests"]) - len(results))
  os.write(client_fd, pack([results, error]))


def brief(error):
  """An exception in one printable line: parts of it may be the answer's text, which must not break a log."""
  (name, *_), message = describe(error)
  return " ".join(f"{name}: {message}".encode("ascii", "backslashreplace").decode().split())[:200]


# ------------------------------------------------------------------------------------------------ lockdown
LIBC = ctypes.CDLL(None)
FORK = (
  ctypes.PyDLL(None).fork
)  # os.fork's hooks renew the locks of threads that a worker does not have, and take half its time
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = (
  1,
  4,
  22,
  36,
  38,
)
CLONE_NEWIPC, CLONE_NEWNET, CLONE_THREAD, ENOSYS = 0x08000000, 0x40000000, 0x00010000, 38
# What a program needs that computes, allocates, sleeps, starts threads and talks over open pipes. No open, socket, exec, kill.
SYSCALLS = {  # machine: its AUDIT_ARCH, then name=number
  "x86_64": (
    0xC000003E,
    """
        read=0 write=1 close=3 fstat=5 poll=7 lseek=8 mmap=9 mprotect=10 munmap=11 brk=12 rt_sigaction=13 rt_sigprocmask=14
        rt_sigreturn=15 select=23 sched_yield=24 mremap=25 madvise=28 nanosleep=35 getpid=39 clone=56 exit=60 uname=63
        gettimeofday=96 getrusage=98 sysinfo=99 times=100 getuid=102 getgid=104 geteuid=107 getegid=108 getppid=110
        sigaltstack=131 gettid=186 time=201 futex=202 sched_getaffinity=204 restart_syscall=219 clock_gettime=228
        clock_getres=229 clock_nanosleep=230 exit_group=231 pselect6=270 ppoll=271 set_robust_list=273 getrandom=318 rseq=334""",
  ),
  "aarch64": (
    0xC00000B7,
    """
        close=57 lseek=62 read=63 write=64 pselect6=72 ppoll=73 fstat=80 exit=93 exit_group=94 futex=98 set_robust_list=99
        nanosleep=101 clock_gettime=113 clock_getres=114 clock_nanosleep=115 sched_getaffinity=123 sched_yield=124
        restart_syscall=128 sigaltstack=132 rt_sigaction=134 rt_sigprocmask=135 rt_sigreturn=139 times=153 uname=160
        getrusage=165 gettimeofday=169 getpid=172 getppid=173 getuid=174 geteuid=175 getgid=176 getegid=177 gettid=178
        sysinfo=179 brk=214 munmap=215 mremap=216 clone=220 mmap=222 mprotect=226 madvise=233 getrandom=278 rseq=293""",
  ),
}


def seccomp_filter(machine):
  """The default-deny BPF program (seccomp(2)) as bytes; empty on a machine whose call numbers are not known here. A denied call
  seems not to exist (ENOSYS): libc then uses clone for clone3, whose flags a filter cannot read.
  """
  if machine not in SYSCALLS:
    return b""
  arch, table = SYSCALLS[machine]
  calls = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", table)}
  load, equal, bits, ret = 0x20, 0x15, 0x45, 0x06
  allow, kill, deny = 0x7FFF0000, 0x80000000, 0x00050000 | ENOSYS
  code = [
    (load, 0, 0, 4),
    (equal, 1, 0, arch),
    (ret, 0, 0, kill),
    (load, 0, 0, 0),
  ]  # a foreign ABI ends the process
  for number in (number for name, number in calls.items() if name != "clone"):
    code += [(equal, 0, 1, number), (ret, 0, 0, allow)]
  # clone for threads only: no second process, so nothing outlives the job
  code += [
    (equal, 0, 3, calls["clone"]),
    (load, 0, 0, 16),
    (bits, 0, 1, CLONE_THREAD),
    (ret, 0, 0, allow),
    (ret, 0, 0, deny),
  ]
  return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def lock_down(config, uid, keep):
  """Irreversible. Empty root, descriptors but `keep` close, limits, another user, no new privileges, few system calls."""
  os.setsid()
  if config["chroot"]:
    os.fchdir(config["jail"])
    os.chroot(".")
  for low, high in itertools.pairwise([2, *sorted(keep), 4096]):
    os.closerange(low + 1, high)
  limits = {
    resource.RLIMIT_AS: config["address_space"],
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 16,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_CPU: config["cpu_seconds"],
  }
  for what, limit in limits.items():
    resource.setrlimit(what, (limit, limit))
  if config["uid"]:
    resource.setrlimit(resource.RLIMIT_NPROC, (64, 64))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
  LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # after the change of user, which clears it
  if os.getppid() != config["worker"]:
    os._exit(1)
  LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
  LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
  if config["seccomp"]:
    if LIBC.prctl(PR_SET_SECCOMP, 2, config["filter"], 0, 0) != 0:
      raise OSError("no seccomp")
    with contextlib.suppress(OSError):
      os.open("/", os.O_RDONLY)
      os._exit(1)  # the filter does not filter


# ------------------------------------------------------------------------------------------------ worker
# What answers and tests may import: everything is loaded before the lockdown, after which no file can be opened.
PRELOAD = """
abc array ast base64 binascii bisect builtins calendar cmath codecs collections.abc concurrent.futures contextlib copy csv ctypes
dataclasses datetime decimal difflib encodings.ascii encodings.cp1252 encodings.hex_codec encodings.idna encodings.latin_1
encodings.raw_unicode_escape encodings.rot_13 encodings.unicode_escape encodings.utf_16 encodings.utf_32 encodings.utf_8_sig enum
fnmatch fractions functools gc glob graphlib hashlib heapq hmac html inspect io ipaddress itertools json keyword linecache locale
logging math numbers operator os pathlib pickle platform pprint queue random re reprlib resource sched secrets select shlex shutil
signal socket statistics string struct subprocess sys tempfile textwrap threading time timeit tokenize traceback types typing
unicodedata unittest urllib.parse uuid warnings weakref zlib zoneinfo _strptime"""


def child(config, uid, run, *fds):
  """Forks a process that locks itself down and does run(*fds) and nothing else; returns its pid."""
  pid = FORK()
  if pid < 0:  # never to be taken for a pid: kill(-1) means everyone
    raise OSError("fork failed")
  if pid == 0:
    try:
      lock_down(config, uid, fds)
      run(*fds)
      os._exit(0)
    finally:
      os._exit(1)
  return pid


def works(config, run=lambda: None):
  """Whether run() succeeds in a child: which layers a machine gives is found by trying."""
  return os.waitpid(child(config, config["uid"], run), 0)[1] == 0


def worker(control_fd, seconds):
  """Serves jobs from the control socket until the client closes it or dies."""
  for option, value in (
    (PR_SET_PDEATHSIG, signal.SIGKILL),
    (PR_SET_CHILD_SUBREAPER, 1),
    (PR_SET_DUMPABLE, 0),
  ):
    LIBC.prctl(option, value, 0, 0, 0)
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  sys.setrecursionlimit(1100)
  for name in PRELOAD.split():
    __import__(name)
  with open("/proc/self/statm") as f:
    mapped = (
      int(f.read().split()[0]) * resource.getpagesize()
    )  # RLIMIT_AS counts what is mapped already
  code, jail = ctypes.create_string_buffer(seccomp_filter(os.uname().machine)), tempfile.mkdtemp()
  config = {
    "worker": os.getpid(),
    "seconds": seconds,
    "address_space": mapped + MEMORY,
    "jail": os.open(jail, os.O_RDONLY),
    "cpu_seconds": int(seconds)
    + 2,  # the wall clock decides; this only catches what a lost worker left behind
    "filter": struct.pack("HP", len(code) // 8, ctypes.addressof(code)),  # struct sock_fprog
    "uid": 0,
    "chroot": False,
    "seccomp": False,
  }
  os.rmdir(
    jail
  )  # a directory that is gone stays usable as a root, is empty for ever, and leaves nothing behind
  uids = (
    2**20 + 2 * os.getpid(),
    50000 + 2 * (os.getpid() % 5000),
  )  # the second fits the 65,536 users of a rootless container
  config["uid"] = next((uid for uid in uids if works({**config, "uid": uid})), 0)
  config["chroot"] = works({**config, "chroot": True})
  config["seccomp"] = works({**config, "seccomp": True})
  config["network"] = os.geteuid() == 0 and LIBC.unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0
  gc.collect()
  gc.freeze()
  control = socket.socket(fileno=control_fd)
  control.send(
    json.dumps(
      {layer: bool(config[layer]) for layer in ("seccomp", "uid", "chroot", "network")}
    ).encode()
  )
  while True:
    control.settimeout(None)
    message, fds, _, _ = socket.recv_fds(control, 1, 1)
    if not message:
      break
    if fds:  # else a late word on a job that was given up
      run_job(config, control, fds[0])


def run_job(config, control, client_fd):
  """Forks solver and judge, and kills both when the client says so, is gone, or is stuck."""
  solver_end, judge_end = socket.socketpair()
  with solver_end, judge_end:
    pids = [
      child(config, config["uid"], solver, solver_end.fileno()),
      child(config, config["uid"] + 1, judge, judge_end.fileno(), client_fd),
    ]
  os.close(client_fd)
  control.settimeout(config["seconds"] + GRACE_SECONDS)
  with contextlib.suppress(TimeoutError):
    control.recv(1)
  for pid in pids:
    os.kill(
      pid, signal.SIGKILL
    )  # both are unreaped children of ours: the pids cannot have been reused
  for pid in pids:
    os.waitpid(pid, 0)
  if not config[
    "seccomp"
  ]:  # an answer may have forked: as its user kill all that it may kill, in one call, then reap the orphans
    works(config, lambda: os.kill(-1, signal.SIGKILL))
    with contextlib.suppress(ChildProcessError):
      while True:
        os.waitpid(-1, 0)
  control.send(b"K")


if __name__ == "__main__":
  if sys.argv[1:2] != ["--worker"]:
    sys.exit("sandbox.py is imported, or started by its client; it has no command line of its own")
  worker(int(sys.argv[2]), float(sys.argv[3]))
