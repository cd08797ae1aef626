"""TODO-DOC references."""

import ast
import itertools
import re
import textwrap

from lib import checking, overlap
from lib.errors import InputError

# ------------------------------------------------------------------------------------------- checks of the rows that are drawn
IDLE = (
  ast.FunctionDef,
  ast.AsyncFunctionDef,
  ast.ClassDef,
  ast.Import,
  ast.ImportFrom,
)  # they check nothing by themselves


def check_answers(rows: list[dict]) -> dict[int, str]:
  """{index: why} of the rows whose own answer the rewards would call wrong: no response could ever earn theirs."""
  column = lambda name: [row[name] for row in rows]
  right = checking.is_correct_batch(
    column("domain"), column("answer"), column("answer"), column("metadata")
  )
  return {
    row["index"]: "its own answer does not pass the check" for row, ok in zip(rows, right) if not ok
  }


def complete_code(row: dict) -> str | None:
  """Names the function and shows one test in a coding question; the other tests score. Returns a reason to drop the row."""
  metadata, question, answer = row["metadata"], row["question"], row["answer"]
  tests = [
    test.strip()
    for test in metadata.get("test_cases") or []
    if isinstance(test, str) and test.strip()
  ]
  completion = metadata.get("completion_style")  # HumanEval: the answer continues the prompt
  if completion:
    answer, question = f"{question}\n    {answer}", f"Complete this function:\n{question}"
  try:
    defined = {
      node.name: node for node in ast.parse(answer).body if isinstance(node, ast.FunctionDef)
    }
    trees = [ast.parse(test) for test in tests]
    used = [node.id for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
  except (SyntaxError, ValueError, RecursionError):
    return "reference or tests are not Python"
  entry = next(
    (name for name in [metadata.get("entry_point"), *used] if name in defined and name in used),
    None,
  )
  if entry is None:
    return "tests call no function of the reference"
  statements = [node for tree in trees for node in tree.body]
  if all(
    isinstance(node, IDLE) or isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call)
    for node in statements
  ):
    return "tests check nothing when they run"  # `def test_f(): …` that nobody calls: every answer would pass
  question = re.sub(
    r"must be named `\w+`", f"must be named `{entry}`", question
  )  # MBPP 601 names a class
  shown = next((test for test in tests if test in question), None)
  if not re.search(rf"\b{re.escape(entry)}\b", question):
    question += f"{overlap.FUNCTION_NAME} `{entry}`."
  if shown is None and len(tests) > 1:
    shown = tests[0]
    question += f"\nExample test:\n{shown}"
  elif (
    shown is None and not completion
  ):  # a single test stays hidden; the header says how it will call
    question += f"\nIts header is `def {entry}({ast.unparse(defined[entry].args)}):`."
  row |= {
    "question": question,
    "answer": answer,
    "all_tests": tests,
    "metadata": metadata
    | {
      "test_cases": [test for test in tests if test != shown] or tests,
      "shown_test": shown,
      "entry_point": entry,
      "test_setup_code": metadata.get("test_setup_code") or "",
    },
  }
  return None


def check_code(rows: list[dict], run: bool = True) -> dict[int, str]:
  """Completes coding rows. Row index -> reason, for those that cannot be, or whose reference fails one of its tests in the
  sandbox that will score answers.

  16 references share a job, each in a scope of its own, which is eight times as fast; where one fails, all run again alone.
  """
  bad = {row["index"]: reason for row in rows if (reason := complete_code(row))}
  rows = [row for row in rows if row["index"] not in bad]
  if not rows or not run:
    return bad
  from lib import sandbox  # here, because most pools of text need none

  packs, alone = [{}], []
  for row in rows:
    entry, setup = row["metadata"]["entry_point"], row["metadata"]["test_setup_code"]
    if setup:
      alone.append(row)
    elif len(packs[-1]) < 16 and entry not in packs[-1]:
      packs[-1][entry] = row
    else:
      packs.append({entry: row})

  def job(code, rows, setup=""):
    return {
      "code": code,
      "reference": code,
      "tests": [test for row in rows for test in row["all_tests"]],
      "setup": setup,
    }

  def scoped(entry, row):
    return (
      f"def scope():\n{textwrap.indent(row['answer'], '  ')}\n  return {entry}\n{entry} = scope()\n"
    )

  try:
    with sandbox.Sandbox() as box:
      verdicts = box.run(
        [job("".join(itertools.starmap(scoped, pack.items())), pack.values()) for pack in packs]
      )
      alone += [
        row for pack, verdict in zip(packs, verdicts) if not verdict.passed for row in pack.values()
      ]
      verdicts = box.run(
        [job(row["answer"], [row], row["metadata"]["test_setup_code"]) for row in alone]
      )
  except sandbox.SandboxUnavailable as error:
    raise InputError(
      f"coding rows cannot be verified: {error}; or --verify_code=off keeps them unverified"
    ) from error
  return bad | {
    row["index"]: "reference fails its tests"
    for row, verdict in zip(alone, verdicts)
    if not verdict.passed
  }
