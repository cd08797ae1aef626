"""Coding rows that are worth learning from: the reference passes, and nothing trivial does."""

import pytest

from lib import references


def row(*tests: str, answer="def double(x):\n  return 2 * x", **metadata) -> dict:
  return {
    "index": 0,
    "domain": "coding",
    "question": "Write a function that doubles a number.",
    "answer": answer,
    "metadata": {"test_cases": list(tests), **metadata},
  }


RIGHT = ("assert double(2) == 4", "assert double(5) == 10")

UNTESTED = {
  "only when it is the main program": 'if __name__ == "__main__":\n  assert double(2) == 4',
  "errors are swallowed": "try:\n  assert double(2) == 5\nexcept Exception:\n  pass",
  "a loop over nothing": "for x in []:\n  assert double(x) == 2 * x",
  "printed, not asserted": "print(double(2) == 4)",
  "a tuple is always true": "assert (double(2), 4)",
  "called, and that is all": "double(2)",
  "a class with a test that nobody runs": "class T:\n  def test(self):\n    assert double(2) == 4",
}


@pytest.mark.parametrize("test", UNTESTED.values(), ids=UNTESTED)
def test_tests_that_check_nothing_lose_their_row(test):
  reason = references.check_code([row(test)])[0]
  assert "passes its tests" in reason or "check nothing" in reason


@pytest.mark.parametrize(
  "body,tests",
  [
    ("return False", ["assert is_even(3) == False", "assert is_even(5) == False"]),
    ("return True", ["assert is_even(2)", "assert is_even(8)"]),
    ("return None", ["assert is_even(2) is None"]),
    ("return 0", ["assert is_even(1) == 0"]),
    ('return ""', ["assert is_even('x') == ''"]),
    ("return args[0] if args else None", ["assert is_even([1]) == [1]"]),
    ("raise ValueError", ["try:\n  is_even(1)\n  assert False\nexcept ValueError:\n  pass"]),
  ],
)
def test_a_constant_that_passes_loses_its_row(body, tests):
  """The reference passes too: it is the tests that are too few."""
  reference = f"def is_even(*args):\n  {body}"
  asked = row(*tests, answer=reference)
  assert references.check_code([asked]) == {0: "a trivial answer passes its tests"}


def test_the_test_in_the_prompt_scores_too():
  """Its two hidden tests expect False; a constant passes them and fails the one it was shown."""
  is_even = "def is_even(x):\n  return x % 2 == 0"
  tests = ["assert is_even(4) == True", "assert is_even(3) == False", "assert is_even(7) == False"]
  asked = row(*tests, answer=is_even)
  assert references.check_code([asked]) == {}
  assert asked["metadata"]["shown_test"] == tests[0]
  assert asked["metadata"]["test_cases"] == tests


@pytest.mark.parametrize(
  "test,call",
  [
    (
      "def check(candidate):\n  assert candidate(2) == 4\n  assert candidate(0) == 0",
      "check(double)",
    ),
    ("def test_double():\n  assert double(2) == 4\n  assert double(0) == 0", "test_double()"),
  ],
)
def test_a_runners_call_is_added_where_it_is_missing(test, call):
  asked = row(test, answer="def double(x):\n  return 2 * x", entry_point="double")
  if call == "check(double)":
    asked["metadata"]["test_cases"] = [test + "\nassert double(1) == 2"]
  assert references.check_code([asked]) == {}
  assert asked["metadata"]["test_cases"][0].endswith(call)
  called = row(test + f"\n{call}\ndouble(1)", entry_point="double")
  references.check_code([called])
  assert called["metadata"]["test_cases"][0].count(f"\n{call}") == 1


def test_each_of_many_rows_gets_its_own_verdict():
  """Rows share jobs; a wrong reference, a slow one and one with setup do not spoil the others."""
  rows = []
  for i in range(40):
    name = f"add_{i % 20}"  # every name twice
    answer = f"def {name}(x):\n  return x + {i}"
    rows.append(row(f"assert {name}(1) == {i + 1}", f"assert {name}(9) == {i + 9}", answer=answer))
    rows[-1]["index"] = i
  rows[7]["answer"] = "def add_7(x):\n  return x"
  rows[11]["answer"] = "def add_11(x):\n  while True:\n    pass"
  rows[13]["metadata"]["test_setup_code"] = "offset = 13"
  rows[13]["metadata"]["test_cases"].append("assert add_13(0) == offset")
  bad = references.check_code(rows)
  assert bad.pop(0) == "a trivial answer passes its tests"  # it adds nothing
  assert bad == dict.fromkeys((7, 11), "reference fails its tests")


def test_right_rows_stay():
  asked = row(*RIGHT)
  assert references.check_code([asked]) == {}
  assert asked["metadata"]["entry_point"] == "double"
  assert RIGHT[0] in asked["question"] and "must be named `double`" in asked["question"]
