"""Equal values in all their forms, and the process that decides what plain reading cannot."""

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import sys
import time

import hypothesis.strategies as st
from hypothesis import given, settings

from lib import checking, equivalence, failures

ROOT = pathlib.Path(__file__).resolve().parents[1]


@settings(max_examples=300, deadline=None)
@given(
  st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=1000),
  st.fractions(max_denominator=50),
)
def test_numbers_in_all_their_forms(value, other):
  forms = [
    f"{value}",
    f"The answer is {value}.",
    f"\\boxed{{{value}}}",
    f"${value}$",
    f"x = {value}",
  ]
  sign, top, bottom = "-" if value < 0 else "", abs(value.numerator), value.denominator
  forms += [f"{sign}\\frac{{{top}}}{{{bottom}}}", f"$ {sign}\\dfrac{{{top}}}{{{bottom}}} $"]
  forms += (
    [f"{value.numerator:,}", f"{value.numerator:,} apples", f"\\${value.numerator}"]
    if bottom == 1
    else []
  )
  for form in forms:
    assert checking.is_correct("math", form, str(value)), form
    assert checking.is_correct("math", form, str(other)) == (value == other), form


def test_the_equivalence_process_is_killed_and_replaced():
  equivalence.WORKER.stop()
  before = signal.signal(
    signal.SIGPROF, signal.SIG_IGN
  )  # as libtpu leaves it, and a child inherits
  try:
    equivalence.WORKER.start()
  finally:
    signal.signal(signal.SIGPROF, before)
  assert checking.is_correct("math", "(x+1)^2", "x^2 + 2x + 1")
  first, before = equivalence.WORKER.process.pid, failures.failed_rows().get("math_over_limit", 0)
  start = time.perf_counter()
  assert not checking.is_correct("math", "9^{9^{9^{9}}} + \\sqrt{7}", "\\sqrt{11}")
  assert (
    time.perf_counter() - start < 10 and failures.failed_rows()["math_over_limit"] == before + 1
  )
  assert (
    checking.is_correct("math", "(x+2)^2", "x^2 + 4x + 4")
    and equivalence.WORKER.process.pid != first
  )
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    pairs = [(f"{n}\\sqrt{{2}}", f"\\sqrt{{{2 * n * n + (n % 2)}}}") for n in range(2, 22)]
    assert list(pool.map(lambda p: checking.is_correct("math", *p), pairs)) == [
      n % 2 == 0 for n in range(2, 22)
    ]


def test_math_agrees_with_math_verify():
  """The kept library as the outside judge, on forms that both read."""
  from math_verify import parse, verify

  forms = [
    "1/2",
    "0.5",
    "\\frac{1}{2}",
    "2",
    "2.0",
    "\\sqrt{4}",
    "-3",
    "\\frac{-6}{2}",
    "\\sqrt{8}",
    "2\\sqrt{2}",
    "x+1",
    "1+x",
    "(x+1)^2",
    "x^2+2x+1",
    "\\pi",
    "2\\pi",
    "\\frac{\\pi}{2}",
    "0.75",
    "\\frac34",
    "10^3",
    "1000",
    "1{,}000",
    "2^{10}",
    "e^2",
    "\\frac{x}{2}",
    "0.5x",
  ]
  unevaluated = {"10^3", "2^{10}", "\\sqrt{4}"}  # ours wants a number where a number is asked for
  for truth in forms[::2]:
    for answer in sorted(set(forms) - unevaluated)[::2]:
      theirs = bool(
        verify(
          parse(f"${truth}$", parsing_timeout=None),
          parse(f"${answer}$", parsing_timeout=None),
          timeout_seconds=None,
        )
      )
      assert checking.is_correct("math", f"${answer}$", truth) == theirs, (answer, truth)


def test_no_process_is_left_behind():
  code = """
from lib import checking, equivalence
assert checking.is_correct("math", "(x+1)^2", "x^2+2x+1")
tests = {"test_cases": ["assert f(1) == 1"]}
assert checking.is_correct("coding", "def f(x): return x", "def f(x): return x", tests)
print(equivalence.WORKER.process.pid)
"""
  result = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
  )
  assert result.returncode == 0, result.stderr
  time.sleep(0.2)
  assert not os.path.exists(f"/proc/{result.stdout.strip()}")
