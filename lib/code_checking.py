"""TODO-DOC code_checking."""

import atexit
import functools
import hashlib
import json

from lib import failures
from lib.errors import InputError

VERDICTS, MAX_VERDICTS = (
  {},
  4096,
)  # of code, by hash, the oldest first: the reward and the accuracy of a batch share one run


@functools.cache
def code_box():
  """The one sandbox of this process, started on first use and closed at exit."""
  from lib import sandbox

  try:
    box = sandbox.Sandbox()
  except sandbox.SandboxUnavailable as error:
    raise InputError(f"{error}; --code_rewards=off goes on without running code") from error
  atexit.register(box.close)
  return box


def code_job(answer: str, truth: str, metadata: dict) -> dict | None:
  """The sandbox's job for a row, a single text counting as one test; None for one without tests, or (counted) bad ones."""
  tests, setup = metadata.get("test_cases") or [], str(metadata.get("test_setup_code") or "")
  tests = [tests] if isinstance(tests, str) else tests
  if not isinstance(tests, list) or not all(isinstance(test, str) for test in tests):
    return failures.failed(TypeError("test_cases"))
  return (
    {"code": answer, "tests": tests, "setup": setup, "reference": truth or ""} if tests else None
  )


def code_verdicts(answers, truths, metadatas) -> list:
  """The sandbox's verdict on each answer's code, run side by side, the same job once; None for a row without tests."""
  jobs = [code_job(*row) for row in zip(answers, truths, metadatas)]
  keys = [job and hashlib.sha256(json.dumps(job).encode()).digest() for job in jobs]
  new = {key: job for key, job in zip(keys, jobs) if key and key not in VERDICTS}
  VERDICTS.update(zip(new, code_box().run(list(new.values())) if new else []))
  verdicts = [key and VERDICTS[key] for key in keys]
  for key in list(VERDICTS)[:-MAX_VERDICTS]:
    del VERDICTS[key]
  return verdicts


def code_share(verdict) -> float:
  """Share of its tests that an answer passes; 1 only for a pass, whatever the single results say."""
  results = verdict.results if verdict else []
  return (
    1.0 if verdict and verdict.passed else min(0.99, sum(map(bool, results)) / max(1, len(results)))
  )
