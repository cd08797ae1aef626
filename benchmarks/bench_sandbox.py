"""Jobs per second of the sandbox beside the two usual ways to run an answer, which isolate nothing.

  python benchmarks/bench_sandbox.py

Peers: `python -I -S` per job with exit code 0 as verdict, and exec() in this process. All run the
same honest jobs in this run.
"""

import concurrent.futures
import os
import pathlib
import statistics
import subprocess
import sys
import time

from absl import flags
from machine import machine_line

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from lib import command_line, sandbox

JOBS = [
  {
    "code": f"def f(n):\n  return [x * {k} for x in range(n) if x % 2]",
    "tests": [f"assert f({n}) == {[x * k for x in range(n) if x % 2]}" for n in (3, 10, 30)],
  }
  for k in range(1, 65)
]
ROUNDS = 5


def in_process(job):
  space = {}
  exec("\n".join([job["code"], *job["tests"]]), space)
  return True


def process_per_job(job):
  program = "\n".join([job["code"], *job["tests"]])
  return (
    subprocess.run(
      [sys.executable, "-I", "-S", "-c", program], check=False, capture_output=True
    ).returncode
    == 0
  )


def in_sandbox(box):
  def run_batch(jobs):
    return [verdict.passed for verdict in box.run(jobs)]

  return run_batch


def measure(name, run_batch):
  """Median and range of the seconds that one batch of 64 jobs takes, in one printed line."""
  run_batch(JOBS)
  seconds = []
  for _ in range(ROUNDS):
    start = time.perf_counter()
    assert all(run_batch(JOBS)), f"{name}: an honest job failed"
    seconds.append(time.perf_counter() - start)
  mid = statistics.median(seconds)
  spread = f"(from {min(seconds):.3f} to {max(seconds):.3f})"
  print(f"{name:34s} {len(JOBS) / mid:9.0f} jobs/s   64 jobs in {mid:.3f} s {spread}", flush=True)


def main():
  print(f"{machine_line()}; 64 jobs of 3 tests, {ROUNDS} rounds", flush=True)
  for workers in sorted({1, 2, len(os.sched_getaffinity(0))}):
    start = time.perf_counter()
    with sandbox.Sandbox(workers=workers) as box:
      seconds = time.perf_counter() - start
      print(f"sandbox: {workers} workers start in {seconds:.2f} s, layers {box.layers}")
      measure(f"sandbox, {workers} workers", in_sandbox(box))
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    measure("python -I -S per job, 2 at a time", lambda jobs: list(pool.map(process_per_job, jobs)))
  measure("exec() in the trainer", lambda jobs: [in_process(job) for job in jobs])


if __name__ == "__main__":
  command_line.launch(main, flags.FlagValues(), __doc__)
