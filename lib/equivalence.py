"""TODO-DOC equivalence."""

import atexit
import json
import resource
import select
import signal
import subprocess
import sys
import threading

from lib import failures, folders


class EquivalenceWorker:
  """math-verify in a process of its own that can be killed: some expressions hang sympy or exhaust memory.

  Started on first use with no preexec_fn, so that no at-fork hook runs under JAX. The worker limits its own CPU time before each
  job, so that it ends even where this process has died; ten times that on the wall clock is the backstop.
  """

  limit, process, lock = 1.0, None, threading.Lock()

  def start(self):
    command, pipe = [sys.executable, "-m", "lib.equivalence"], subprocess.PIPE
    self.process = subprocess.Popen(
      command,
      bufsize=0,
      stdin=pipe,
      stdout=pipe,
      stderr=subprocess.DEVNULL,
      start_new_session=True,
      cwd=folders.ROOT,
    )
    if self.read_line(60.0) != "ready":
      self.stop()
      raise OSError(
        "the math-verify process did not start; is math-verify installed? (pip install -r requirements.txt)"
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
    """Symbolic equality; False, and counted, where it cannot tell within its limit."""
    with self.lock:
      if self.process is None:
        self.start()
      try:
        self.process.stdin.write(json.dumps([self.limit, answer, truth]).encode() + b"\n")
        verdict = self.read_line(10.0 * self.limit)
      except OSError:
        verdict = ""
      if not verdict:
        failures.COUNTS["math_over_limit"] += 1
        self.stop()
      return verdict == "True"


WORKER = EquivalenceWorker()
atexit.register(WORKER.stop)


def equivalence_worker():
  """The worker's side: a line [seconds, answer, truth] in, True or False out."""
  signal.signal(
    signal.SIGPROF, signal.SIG_DFL
  )  # libtpu ignores it in the trainer, and what is ignored stays so in a child
  resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
  import logging

  from math_verify import LatexExtractionConfig, parse, verify

  logging.disable(
    logging.CRITICAL
  )  # it warns that its own alarms are off; the limit here is the process
  config = [LatexExtractionConfig()]

  def equal(answer, truth):
    left, right = (
      parse(f"${text}$", extraction_config=config, parsing_timeout=None) for text in (answer, truth)
    )
    return bool(left and right and verify(right, left, timeout_seconds=None))

  equal("(x+1)^2", "x^2+2x+1")  # imports and caches now what it would at the first job
  print("ready", flush=True)
  for line in sys.stdin:
    seconds, answer, truth = json.loads(line)
    signal.setitimer(
      signal.ITIMER_PROF, seconds
    )  # CPU time: a busy machine changes no verdict; SIGPROF ends the process
    verdict = equal(answer, truth)
    signal.setitimer(signal.ITIMER_PROF, 0)
    print(verdict, flush=True)


if __name__ == "__main__":
  equivalence_worker()
