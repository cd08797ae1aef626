"""Run an answer's code against tests it cannot see, and report a verdict it cannot forge.

The threat: code written by a model that is rewarded for passing finds every way to pass. It exits
early, patches `assert`, returns an object equal to everything, reads the expected value from a
frame, writes the verdict itself; and it may hang, fill memory, delete files. A sandbox around code
and tests together stops the second kind only. So three processes share a job:

  worker  (sandbox_worker)  clean, forks the other two for each job and kills them at the latest
          after `wall_seconds`
  solver  (sandbox_solver)  executes the answer and serves "call f(args)"; never sees a test or an
          expected value
  judge   (sandbox_judge)   executes the tests; each name that the answer must define stands for
          something in the solver

Between solver and judge travels tagged plain data (sandbox_wire). What an answer may supply, and
how far its objects are believed, is said in sandbox_names and sandbox_trust; what a process gives
up before it runs a job, in sandbox_lockdown.

  with sandbox.Sandbox(workers=2) as box:
    verdict, = box.run([{"code": "def f(x): return x * x", "tests": ["assert f(3) == 9"]}])

This file is the client: it starts workers, hands them jobs, and starts a new one for any that is
lost. Limits are in `Sandbox`.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
from typing import NamedTuple

from lib import failures
from lib.sandbox_wire import pack, receive

MAX_CODE = 1 << 16  # characters of an answer; also keeps the compiler's worst cases short
GRACE_SECONDS = 2.0  # how much longer than its job a worker may take before it counts as lost
START_SECONDS = 30.0
TRIES = 3  # of a job whose worker is lost
LOST = "worker lost"  # the error of a job that lost them all


class SandboxUnavailable(RuntimeError):
  """This machine cannot isolate code; the message says what is missing and what to do."""

  def __init__(self, why):
    super().__init__(f"the code sandbox {why}")


class Verdict(NamedTuple):
  passed: bool  # every test passed, and there was at least one
  results: list  # one bool per test
  error: str | None  # first thing that went wrong, in a few words


class Worker:
  """One worker process, and the socket that controls it."""

  def __init__(self, wall_seconds):
    self.wall_seconds = wall_seconds
    self.process = None
    self.control = None
    self.layers = {}

  def start(self):
    """Starts the process and waits until it says what isolation this machine gives."""
    self.control, theirs = socket.socketpair()
    self.control.settimeout(START_SECONDS)
    program = pathlib.Path(__file__).resolve().with_name("sandbox_worker.py")
    arguments = [str(program), str(theirs.fileno()), str(self.wall_seconds)]
    try:
      # Without preexec_fn CPython starts the child by vfork: the trainer never forks, no at-fork
      # hook of JAX runs. The environment is fixed: no token of the trainer's can be read, and
      # string hashes repeat.
      with theirs:
        self.process = subprocess.Popen(
          [sys.executable, "-I", "-S", "-B", *arguments],
          pass_fds=[theirs.fileno()],
          cwd="/",
          env={"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"},
          start_new_session=True,
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
          stderr=subprocess.DEVNULL,
        )
      self.layers = json.loads(self.control.recv(4096))
    except (OSError, ValueError) as error:
      self.stop()
      raise SandboxUnavailable(
        f"cannot start {sys.executable!r} as a worker ({error}); expected a Python to run"
      ) from None
    self.control.settimeout(self.wall_seconds + GRACE_SECONDS)
    # Either keeps an answer from the trainer's files and processes: no system call that opens or
    # signals, or a user who owns nothing in a root that holds nothing.
    other_user = self.layers["uid"] and self.layers["chroot"]
    if not self.layers["seccomp"] and not other_user:
      self.stop()
      raise SandboxUnavailable(
        "cannot isolate code: no seccomp filter here, and not root; expected either one; "
        "run as root or allow seccomp in the container"
      )

  def stop(self):
    if self.control is not None:
      self.control.close()
    if self.process is not None:
      self.process.kill()
      self.process.wait()
      self.process = None

  def run(self, job):
    """[results or None, error] of a checked job.

    ConnectionError if the worker was lost: it is stopped, and the next call starts a clean one.
    """
    try:
      if self.process is None:
        self.start()
      return self.exchange(job)
    except (OSError, SandboxUnavailable) as error:
      self.stop()
      raise ConnectionError(LOST) from error

  def exchange(self, job):
    """Sends the judge a job, waits for its [results, error], has the worker kill both processes."""
    # One socket a job: what a late judge still writes can never be read as the next job's verdict.
    ours, theirs = socket.socketpair()
    with ours, ours.makefile("rb") as stream:
      # Closed here at once: when the judge dies nobody holds that end, and reading ours ends, too.
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
    # Also after a verdict: threads of the answer would run on beside the next job.
    self.control.sendall(b"K")
    # The worker answers once both processes are dead; no byte at all means that it is gone itself.
    if not self.control.recv(1):
      raise ConnectionError("the worker is gone")
    return answer


def checked(job):
  """(the job with all its keys, None), or (as far as it goes, what is wrong with it)."""
  # A data row may hold None where it has no setup, which is no text.
  texts = {key: job.get(key) or "" for key in ("code", "setup", "reference", "entry_point")}
  tests = list(job.get("tests") or ())
  problem = None
  if not tests:
    problem = "no tests"
  elif not all(isinstance(text, str) for text in (*texts.values(), *tests)):
    problem = "code and tests must be text"
  elif len(texts["code"]) > MAX_CODE:
    problem = f"code longer than {MAX_CODE} characters"
  return {**texts, "tests": tests}, problem


class Sandbox(contextlib.AbstractContextManager):
  """A pool of processes that run answers' code; threads may share it.

  `workers`: how many; None: one per usable core, at most 8. `wall_seconds`: real time of a job.
  `layers` tells which layers of isolation this machine gives, `lost` how many workers were lost so
  far (killed from outside, as a rule by the kernel for memory). Raises SandboxUnavailable where the
  layers do not suffice.

  What an honest program cannot do here, though it could in plain Python: open files; start
  processes; import what is not in the standard library; change an argument in place visibly and
  return a value (unless the reference does so, too); have what two functions returned compared or
  added up, unless it is data or one side was built by a class that the tests ask for; have an
  object compared with data; use more than 512 MB or 64 threads.
  """

  def __init__(self, workers=None, wall_seconds=3.0):
    if not sys.platform.startswith("linux"):
      raise SandboxUnavailable(f"needs Linux, found {sys.platform}")
    # Usable cores, not the machine's: a container may own two of sixty-four.
    count = workers or min(8, len(os.sched_getaffinity(0)))
    self.workers = [Worker(wall_seconds) for _ in range(count)]
    self.pool = concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix="sandbox")
    self.lost = 0
    self.idle = queue.SimpleQueue()
    for worker in self.workers:
      self.idle.put(worker)
    try:
      # Side by side, since each imports the standard library; `list` raises what one raised.
      list(self.pool.map(Worker.start, self.workers))
    # Ctrl-C too: processes without an owner must not stay behind.
    except BaseException:
      self.close()
      raise
    self.layers = self.workers[0].layers

  def run(self, jobs):
    """Verdicts of `jobs`, in order, each within `wall_seconds`; a bad job fails, none raises.

    A job is {"code": an answer's text, of which the fenced Python blocks count,
              "tests": texts, each passed if it runs without an exception,
              "setup": a text that runs before them, beside them,
              "reference": code of a right answer, which tells what names are asked for; without it,
              the tests' free names, "entry_point": the asked function's name, where the reference
              defines several}; the last three may be missing.
    """
    return list(self.pool.map(self.run_one, jobs))

  def run_one(self, job):
    """The Verdict of one job, whatever it holds and whatever its code does."""
    job, problem = checked(job)
    failed = [False] * len(job["tests"])
    if problem:
      return Verdict(False, failed, problem)
    # As many threads as workers, so one is idle.
    worker = self.idle.get()
    try:
      # The kernel picks its victim by size: one lost job may be innocent, three in a row are not.
      for _ in range(TRIES):
        try:
          results, error = worker.run(job)
        except ConnectionError:
          self.lost += 1
          failures.COUNTS["sandbox_worker_lost"] += 1
          continue
        # None: the judge never answered, so nothing passed.
        results = results or failed
        return Verdict(all(results), results, error)
      return Verdict(False, failed, LOST)
    finally:
      self.idle.put(worker)

  def close(self):
    # The jobs under way end first: they still talk to their workers.
    self.pool.shutdown()
    for worker in self.workers:
      worker.stop()

  def __exit__(self, *exc):
    self.close()
