"""Coding answers: a row's tests become a job of lib/sandbox, its verdict a share of the reward.

code_verdicts runs a batch of answers side by side and remembers what it saw: the reward of a batch
and its accuracy ask for the same verdicts, and at a low temperature a group holds the same answer
several times. code_share turns a verdict into credit.
"""

import atexit
import functools
import hashlib
import json

from lib import failures
from lib.errors import InputError

# Batches of some hundred answers, many times over.
MAX_VERDICTS = 4096
VERDICTS = {}  # hash of a job -> its verdict, the oldest first


# Starting its workers costs time, so they serve the whole run.
@functools.cache
def code_box():
  """The one sandbox of this process, started on first use and closed at exit."""
  from lib import sandbox  # here, because most runs of rewards.py hold no code

  try:
    box = sandbox.Sandbox()
  except sandbox.SandboxUnavailable as error:
    raise InputError(f"{error}; --code_rewards=off goes on without running code") from error
  atexit.register(box.close)
  return box


def code_job(answer: str, truth: str, metadata: dict) -> dict | None:
  """The sandbox's job for a row; None for one without tests, or with bad ones, which is counted.

  Reads test_cases (a list, or a single text), test_setup_code and entry_point of the metadata;
  `truth` is the reference.
  """
  tests = metadata.get("test_cases") or []
  # A CSV's column of one test; as a list of its letters every test would fail.
  if isinstance(tests, str):
    tests = [tests]
  if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
    failures.failed(TypeError("test_cases"))
    return None
  # No tests is not a mistake: such a row is graded 0, but nothing is counted.
  if not tests:
    return None
  return {
    "code": answer,
    "tests": tests,
    "setup": str(metadata.get("test_setup_code") or ""),
    "reference": truth or "",
    "entry_point": str(metadata.get("entry_point") or ""),
  }


def code_verdicts(answers, truths, metadatas) -> list:
  """The sandbox's verdict on each answer's code, side by side; None for a row without tests."""
  from lib import sandbox

  # One place per answer: None where there is nothing to run, and the others in their order.
  jobs = [code_job(*row) for row in zip(answers, truths, metadatas, strict=True)]
  # The key is the whole job: the same answer to other tests is another job.
  keys = [job and hashlib.sha256(json.dumps(job).encode()).digest() for job in jobs]
  # A dict, so that equal jobs of one batch run once.
  new = {key: job for key, job in zip(keys, jobs, strict=True) if key and key not in VERDICTS}
  if new:
    VERDICTS.update(zip(new, code_box().run(list(new.values())), strict=True))
  verdicts = [key and VERDICTS[key] for key in keys]
  for key in new:
    if VERDICTS[key].error == sandbox.LOST:
      del VERDICTS[key]  # says nothing about the answer: the next to ask runs it again
  # After the verdicts were read: a batch larger than the store still gets all of its own.
  for key in list(VERDICTS)[:-MAX_VERDICTS]:
    del VERDICTS[key]
  return verdicts


def code_share(verdict) -> float:
  """Share of its tests that an answer passes, in [0, 1]; 1 only where the verdict is a pass."""
  if not verdict:
    return 0.0
  if verdict.passed:
    return 1.0
  # Whatever the single results say: full credit is for a pass alone.
  return min(0.99, sum(map(bool, verdict.results)) / max(1, len(verdict.results)))
