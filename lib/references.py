"""Are the rows that were drawn worth learning from? Each must be right by its own reference.

`check_answers` asks the checks that pay rewards whether a row's own answer passes. `check_code`
completes coding rows (`complete_code`: which function to write, an example test) and runs two kinds
of programs against their tests, in the sandbox that scores answers: the reference, which must pass
them all, and trivial ones, of which none may.
"""

import ast
import re
import textwrap

from lib import overlap, scoring
from lib.errors import InputError

# Rows that share a job of the sandbox: its start is most of what a job costs.
REFERENCES_A_JOB = 16  # where one fails, all of them run again alone
TRIVIAL_A_JOB = 64  # these fail nearly all their tests, each by itself

# Bodies of functions that solve nothing. Tests that one of them passes check nothing, or too little
# to be paid for: all of MBPP/20's hidden tests expect False.
TRIVIAL_BODIES = (
  "raise ValueError",
  "return None",
  "return False",
  "return True",
  "return 0",
  'return ""',
  "return args[0] if args else None",
)

NOT_RUN = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def check_answers(rows: list[dict]) -> dict[int, str]:
  """Row index → reason, for rows whose own answer the rewards call wrong, so that none earns."""
  # The answer stands on both sides: a reference that cannot be read fails even itself.
  right = scoring.right_answers(rows, [row["answer"] for row in rows])
  bad = {}
  for row, passed in zip(rows, right, strict=True):
    if not passed:
      bad[row["index"]] = "its own answer does not pass the check"
  return bad


# What a coding row asks.


def complete_code(row: dict) -> str | None:
  """Names the function and shows a test in a coding question. Returns a reason to drop the row.

  Adds to the metadata: entry_point, the function's name; test_cases, the tests that score;
  shown_test, the one in the prompt; test_setup_code. row["all_tests"] is for `check_code`.
  """
  metadata = row["metadata"]
  question = row["question"]
  answer = row["answer"]
  tests = [test.strip() for test in metadata.get("test_cases") or [] if isinstance(test, str)]
  # An empty test would pass for everything.
  tests = [test for test in tests if test]
  continues_prompt = metadata.get("completion_style")  # HumanEval: the answer is the rest of it
  if continues_prompt:
    # `unified` stripped its first indent; with the header before it, it is a program.
    answer = f"{question}\n    {answer}"
    question = f"Complete this function:\n{question}"

  try:
    functions = functions_of(answer)
    trees = [ast.parse(test) for test in tests]
  except (SyntaxError, ValueError, RecursionError):
    return "reference or tests are not Python"
  entry = asked_function(metadata.get("entry_point"), functions, trees)
  if entry is None:
    return "tests call no function of the reference"
  tests = [call_what_it_defines(test, entry) for test in tests]
  if all(checks_nothing(test) for test in tests):
    return "tests check nothing when they run"

  # MBPP 601 names a class where its tests call a function.
  question = re.sub(r"must be named `\w+`", f"must be named `{entry}`", question)
  # MBPP's questions do not name the function, and its tests call it by name.
  if not re.search(rf"\b{re.escape(entry)}\b", question):
    question += f"{overlap.FUNCTION_NAME} `{entry}`."
  # Sanitized MBPP and others print a test already; a second one would be given away.
  shown = next((test for test in tests if test in question), None)
  if shown is None and len(tests) > 1:
    shown = tests[0]
    question += f"\nExample test:\n{shown}"
  elif shown is None and not continues_prompt:
    # A single test stays hidden; the header says how it will call.
    question += f"\nIts header is `def {entry}({ast.unparse(functions[entry].args)}):`."

  row["question"] = question
  row["answer"] = answer
  row["all_tests"] = tests
  row["metadata"] = metadata | {
    # What the sandbox runs for a reward, while `check_code` runs them all.
    "test_cases": scored_tests(row, tests, shown),
    "shown_test": shown,
    "entry_point": entry,
    "test_setup_code": metadata.get("test_setup_code") or "",
  }
  return None


def functions_of(code: str) -> dict[str, ast.FunctionDef]:
  return {node.name: node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}


def asked_function(named: str | None, functions: dict, trees: list) -> str | None:
  """The function to write: the one that the row names, else the first that the tests use."""
  # In the order of the tests: helpers that only the reference calls are not asked for.
  used = [node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
  for name in [named, *used]:
    if name in functions and name in used:
      return name
  return None


def call_what_it_defines(test: str, entry: str) -> str:
  """Adds the calls that some tests leave to their runner.

  HumanEval defines check(candidate), pytest's tests are functions without parameters: by themselves
  both check nothing, and every answer would pass.
  """
  tree = ast.parse(test)
  called = {node.func.id for node in ast.walk(tree) if is_call_of_name(node)}
  for name, function in functions_of(test).items():
    parameters = function.args.posonlyargs + function.args.args
    required = len(parameters) - len(function.args.defaults)
    # The test calls it already; twice would cost twice the time.
    if name in called:
      continue
    if name == "check" and required == 1:
      test += f"\ncheck({entry})"
    elif name.startswith("test") and required == 0:
      test += f"\n{name}()"
  return test


def is_call_of_name(node) -> bool:
  return isinstance(node, ast.Call) and isinstance(node.func, ast.Name)


def checks_nothing(test: str) -> bool:
  """Whether no statement of it can fail by what the answer returns: definitions, constants."""
  for node in ast.parse(test).body:
    # A docstring, or `f(2) == 4` without its assert: a comparison by itself cannot fail.
    constant = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call)
    if not constant and not isinstance(node, NOT_RUN):
      return False
  return True


def scored_tests(row: dict, tests: list[str], shown: str | None) -> list[str]:
  """All tests, the shown one too: an answer that fails the test in its own prompt is not right.

  The built-in pool keeps its first test for the prompt alone: its published figures were measured
  that way, and its tests leave no room for a constant.
  """
  if overlap.is_builtin(row):
    return [test for test in tests if test != shown] or tests
  return tests


# Running references and trivial programs.


def check_code(rows: list[dict], run: bool = True) -> dict[int, str]:
  """Completes coding rows, and returns row index → reason for those to drop.

  run: whether references and trivial programs run, in the sandbox that will score answers.
  """
  bad = {}
  for row in rows:
    if reason := complete_code(row):
      bad[row["index"]] = reason
  rows = [row for row in rows if row["index"] not in bad]
  if not rows or not run:
    return bad
  from lib import sandbox  # here, because most pools of text need none

  try:
    with sandbox.Sandbox() as box:
      failing = failing_references(box, rows)
      # The generator's tests leave no room for a constant, and trying costs time.
      checked = [row for row in rows if row["index"] not in failing and not overlap.is_builtin(row)]
      return bad | failing | passed_by_trivial_programs(box, checked)
  except sandbox.SandboxUnavailable as error:
    raise InputError(
      f"coding rows cannot be verified: {error}; or --verify_code=off keeps them unverified"
    ) from error


def failing_references(box, rows: list[dict]) -> dict[int, str]:
  """Row index → reason, where the reference fails a test."""
  packs = pack_rows(rows, REFERENCES_A_JOB)
  verdicts = box.run([reference_job(pack) for pack in packs])
  alone = []  # where one of a pack fails, or upsets another, all of it run again alone
  for pack, verdict in zip(packs, verdicts, strict=True):
    if not verdict.passed:
      alone += pack
  verdicts = box.run([reference_job([row]) for row in alone])
  bad = {}
  for row, verdict in zip(alone, verdicts, strict=True):
    if not verdict.passed:
      bad[row["index"]] = "reference fails its tests"
  return bad


def passed_by_trivial_programs(box, rows: list[dict]) -> dict[int, str]:
  """Row index → reason, where a function that solves nothing passes all tests."""
  packs = pack_rows(rows, TRIVIAL_A_JOB)
  jobs = [trivial_job(pack, body) for pack in packs for body in TRIVIAL_BODIES]
  verdicts = box.run(jobs)
  tried = [pack for pack in packs for _ in TRIVIAL_BODIES]  # the pack of each job
  bad = {}
  for pack, verdict in zip(tried, verdicts, strict=True):
    # One flat list of results for the pack: each row takes as many as it has tests.
    results = iter(verdict.results)
    for row in pack:
      # A job that broke off has fewer results; what is missing did not pass.
      passed = [bool(next(results, False)) for _ in row["all_tests"]]
      if all(passed):
        bad[row["index"]] = "a trivial answer passes its tests"
  return bad


def pack_rows(rows: list[dict], size: int) -> list[list[dict]]:
  """At most `size` rows that can share a job.

  No function's name twice, and no setup code, which is the job's.
  """
  packs = []
  current = []
  for row in rows:
    # A job has one setup, and another row's could change what this one's tests see.
    if row["metadata"]["test_setup_code"]:
      packs.append([row])
      continue
    names = {other["metadata"]["entry_point"] for other in current}
    if len(current) == size or row["metadata"]["entry_point"] in names:
      packs.append(current)
      current = []
    current.append(row)
  if current:
    packs.append(current)
  return packs


def reference_job(pack: list[dict]) -> dict:
  return job(pack, reference_code(pack))


def trivial_job(pack: list[dict], body: str) -> dict:
  code = ""
  for row in pack:
    # Any arguments: it must fail by its answer, not by its header.
    code += f"def {row['metadata']['entry_point']}(*args, **kwargs):\n  {body}\n"
  return job(pack, code)


def job(pack: list[dict], code: str) -> dict:
  return {
    "code": code,
    "reference": reference_code(pack),
    "tests": [test for row in pack for test in row["all_tests"]],
    "setup": pack[0]["metadata"]["test_setup_code"],
  }


def reference_code(pack: list[dict]) -> str:
  """The pack's references; several stand in a scope each, so that their helpers keep apart."""
  if len(pack) == 1:
    return pack[0]["answer"]
  code = ""
  for row in pack:
    entry = row["metadata"]["entry_point"]
    body = textwrap.indent(row["answer"], "  ")
    code += f"def scope():\n{body}\n  return {entry}\n{entry} = scope()\n"
  return code
