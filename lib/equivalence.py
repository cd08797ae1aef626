"""Whether two mathematical expressions are equal: math-verify, in a process that can be killed.

Some expressions hang sympy or exhaust the memory (9^9^9^9), and no thread can be stopped from
outside. `WORKER.ask` is the trainer's side; `serve` is the process's.
"""

import atexit
import json
import resource
import select
import signal
import subprocess
import sys
import threading

from lib import failures, folders

START_SECONDS = 60.0  # for importing sympy on a busy machine
MAX_BYTES = 2 << 30  # of address space for the process
DIGITS = 40  # to which two constants must agree; sympy works with more where they cancel


class EquivalenceWorker:
  """The one math-verify process, started on first use and again after it had to be killed.

  It is started without a preexec_fn, so that no at-fork hook runs under JAX. It limits its own CPU
  time before each job, so it ends even where this process has died; ten times that limit on the
  wall clock is the backstop.
  """

  limit = 1.0  # CPU seconds for one question
  process = None
  lock = threading.Lock()  # one question at a time, whichever thread asks

  def start(self):
    self.process = subprocess.Popen(
      [sys.executable, "-m", "lib.equivalence"],
      bufsize=0,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      start_new_session=True,  # Ctrl-C reaches the trainer only, which stops it in order
      cwd=folders.ROOT,
    )
    if self.read_line(START_SECONDS) != "ready":
      self.stop()
      raise OSError(
        "the math-verify process did not start; "
        "is math-verify installed? (pip install -r requirements.txt)"
      )

  def read_line(self, seconds: float) -> str:
    """One line, or "" when the worker ended or the time is up."""
    ready, _, _ = select.select([self.process.stdout], [], [], seconds)
    return self.process.stdout.readline().decode().strip() if ready else ""

  def stop(self):
    if self.process:
      with self.process as process:  # reaps it and closes its pipes
        process.kill()
      self.process = None

  def ask(self, answer: str, truth: str) -> bool:
    """Are they equal? False, and counted, where that cannot be told within the limit."""
    question = json.dumps([self.limit, answer, truth]).encode() + b"\n"
    with self.lock:
      if self.process is None:
        self.start()
      try:
        self.process.stdin.write(question)
        verdict = self.read_line(10.0 * self.limit)
      except OSError:  # it died since the last question
        verdict = ""
      if not verdict:
        failures.COUNTS["math_over_limit"] += 1
        self.stop()
      return verdict == "True"


WORKER = EquivalenceWorker()
atexit.register(WORKER.stop)


def same_constant(a, b, float_rounding: int, numeric_precision: int) -> bool:
  """Replaces math-verify's `sympy_numeric_eq`, by which 1/2^55 is 1/2^56: it chops at 1e-15.

  Here two expressions are equal when their difference is 0 or, where it is too hard to prove, when
  they agree to `DIGITS` significant digits. A decimal (a sympy Float, as in 1.414214 for √2) was
  rounded by whoever wrote it: there one part in 500,000 is enough, and at most 1e-6.
  """
  import sympy

  if isinstance(a, sympy.MatrixBase) and isinstance(b, sympy.MatrixBase):
    return a.shape == b.shape and all(
      same_constant(x, y, float_rounding, numeric_precision)
      for x, y in zip(a.doit().flat(), b.doit().flat(), strict=True)
    )
  try:
    a, b = sympy.sympify(a).doit(), sympy.sympify(b).doit()
    if a == b:
      return True
    if a.free_symbols or b.free_symbols:
      return sympy.expand(a - b) == 0
    size = abs(b.evalf(DIGITS))
    if not size.is_finite:
      return False
    difference = abs((a - b).evalf(DIGITS, maxn=400))
    if a.has(sympy.Float) or b.has(sympy.Float):
      return bool(difference <= min(sympy.Float("1e-6"), size / 500_000))
    return bool(difference <= size * sympy.Float(10, DIGITS) ** (2 - DIGITS))
  except (TypeError, ValueError, AttributeError, NotImplementedError):
    return False  # sets, relations and the like are no constants


def serve():
  """The worker's side: a line [seconds, answer, truth] in, a line True or False out."""
  # libtpu ignores SIGPROF in the trainer, and a child inherits what is ignored.
  signal.signal(signal.SIGPROF, signal.SIG_DFL)
  resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
  import logging

  from math_verify import LatexExtractionConfig, grader, parse, verify

  grader.sympy_numeric_eq = same_constant
  # math-verify warns that its own alarms are off; the limit here is the process.
  logging.disable(logging.CRITICAL)
  config = [LatexExtractionConfig()]

  def read(text):
    return parse(f"${text}$", extraction_config=config, parsing_timeout=None)

  def equal(answer, truth):
    left, right = read(answer), read(truth)
    return bool(
      left and right and verify(right, left, allow_set_relation_comp=True, timeout_seconds=None)
    )

  equal("(x+1)^2", "x^2+2x+1")  # imports and caches now what it would at the first job
  print("ready", flush=True)
  for line in sys.stdin:
    seconds, answer, truth = json.loads(line)
    # CPU time, so that a busy machine changes no verdict; SIGPROF ends the process.
    signal.setitimer(signal.ITIMER_PROF, seconds)
    verdict = equal(answer, truth)
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(verdict, flush=True)


if __name__ == "__main__":
  serve()
