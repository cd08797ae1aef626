"""What a reward component sees: a completion, its prompt's columns, how good its answer is.

`columns_of` is what reward functions are given, `read_rows` makes rows of it. `with_grades` has
their answers checked, judged, or weighed by `quality`, the heuristics for text without a right
answer (`multi_domain` write-up). `check_answer` says why an answer is not right.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

from lib import checking, code_checking, contract, failures, math_checking, own_checks, prose
from lib.contract import Response


class Row(NamedTuple):
  """One completion with what is known about its prompt."""

  text: str
  question: str
  domain: str
  truth: str
  metadata: dict
  response: Response | None  # None: malformed
  answer: str | None  # the response's; of a malformed one what `extract_answer` finds
  checkable: bool  # the row has a right answer
  grade: float = 0.0  # of the answer, in [0, 1]; 0 unless the component asked for it


def columns_of(rows: list[dict]) -> dict[str, list]:
  """What reward functions are given of data rows, beside prompts and completions."""
  columns = {name: [row[name] for row in rows] for name in ("domain", "question", "answer")}
  # As JSON text: rows of different domains have different keys there.
  columns["metadata"] = [json.dumps(row["metadata"], ensure_ascii=False) for row in rows]
  return columns


def read_rows(prompts, completions, columns: dict, style: str) -> list[Row | None]:
  """The batch as rows; None (scored 0, counted) for one whose columns cannot be read."""
  fields = []
  for name in ("question", "domain", "answer", "metadata"):
    values = columns.get(name)
    # A notebook may pass no columns but the answer; each row then goes without the rest.
    fields.append([None] * len(completions) if values is None else values)
  return [read_row(style, *row) for row in zip(completions, prompts, *fields, strict=True)]


def read_row(style: str, text, prompt, question, domain, truth, metadata) -> Row | None:
  try:
    if isinstance(metadata, str | bytes | None):
      # The trainer's batches hold plain text and numbers, so a row's dict travels as JSON.
      metadata = json.loads(metadata or "{}")
    if not isinstance(text, str) or not isinstance(metadata, dict):
      raise TypeError("completion or metadata")
    response = contract.parse_response(text, style)
    return Row(
      text=text,
      # The question without the instructions around it, where it is known.
      question=str(prompt if question is None else question),
      domain=str(domain or ""),
      truth="" if truth is None else str(truth),
      metadata=metadata,
      response=response,
      # A component may pay a right answer without the form: the form has components of its own.
      answer=response.answer if response else contract.extract_answer(text),
      checkable=own_checks.way_of(str(domain or ""), metadata) != "",
    )
  # RecursionError: JSON nested a hundred thousand deep.
  except (TypeError, ValueError, RecursionError) as error:
    return failures.failed(error)


# Which rows' answers a component asks to be graded.
def every_row(row: Row) -> bool:
  return True


def right_or_wrong(row: Row) -> bool:
  return row.checkable and row.response is not None


def is_creative(row: Row) -> bool:
  """Well formed, and without a right answer: a judge or heuristics say how good it is."""
  return not row.checkable and row.response is not None


def with_grades(
  rows: list[Row | None], wanted: Callable[[Row], bool], judge: Callable | None, code_rewards: str
) -> list[Row | None]:
  """The rows with `grade` filled in where `wanted` says so, all their code in one sandbox call.

  Where there is a right answer: the partial credit of `checking.grade`. Else the judge's overall
  score / 10; without a judge, and where it failed, the heuristics. Malformed creative text: 0.
  """
  # A component that pays only well-formed text need not run the code of the rest.
  places = [i for i, row in enumerate(rows) if row and wanted(row)]
  asked = [rows[i] for i in places]
  grades = checking.grade(
    [row.domain for row in asked],
    [row.answer for row in asked],
    [row.truth for row in asked],
    [row.metadata for row in asked],
    code_rewards,
  )
  # `checking.grade` gives these 0: it knows right and wrong, not good and bad.
  creative = [k for k, row in enumerate(asked) if is_creative(row)]
  verdicts = ask_judge([asked[k] for k in creative], judge)
  for k, verdict in zip(creative, verdicts, strict=True):
    # `quality` reaches 0.8 at most, so / 0.8 puts it on the judge's scale of 0 to 1.
    grades[k] = verdict.overall / 10 if verdict else min(1.0, quality(asked[k]) / 0.8)
  # A copy: other components read the same batch, and ask for other rows' grades.
  graded = list(rows)
  for i, grade in zip(places, grades, strict=True):
    graded[i] = rows[i]._replace(grade=grade)
  return graded


def ask_judge(rows: list[Row], judge: Callable | None) -> list:
  """The judge's verdict on each row; None where there is no judge, or it failed (counted)."""
  if not judge or not rows:
    return [None] * len(rows)
  verdicts = judge([{"question": row.question, "response": row.text} for row in rows])
  # Counted, as heuristics in a judge's place change what a run learned from.
  failures.COUNTS["judge_fallback"] += verdicts.count(None)
  return verdicts


def quality(row: Row) -> float:
  """Range [0, 0.8]: `length`, `diversity` and `relevance` of a creative response together."""
  return length_quality(row) + diversity_quality(row) + relevance_quality(row)


def length_quality(row: Row) -> float:
  """Range [0, 0.3]: 20 to 500 words of reasoning and 10 to 300 of answer earn all of it."""
  if not is_creative(row):
    return 0.0
  # Words, not tokens: the constants are the write-up's and hold for any tokenizer.
  thought = prose.length_score(row.response.reasoning, target=250, shortest=20, longest=500)
  said = prose.length_score(row.response.answer, target=150, shortest=10, longest=300)
  return 0.15 * thought + 0.15 * said


def diversity_quality(row: Row) -> float:
  """Range [0, 0.25]. Departure: not for what is copied, or the question itself would pay."""
  if not is_creative(row):
    return 0.0
  own_share = 1.0 - prose.copied_share(row.response.answer, row.question)
  return 0.25 * prose.diversity_score(row.response.answer) * own_share


def relevance_quality(row: Row) -> float:
  """Range [0, 0.25]: the reasoning takes up what the question asks about, in its own words."""
  if not is_creative(row):
    return 0.0
  return 0.25 * prose.relevance_score(row.question, row.response.reasoning)


def check_answer(row: Row | None, code_rewards: str) -> tuple[bool | None, list[str]]:
  """(is the answer right, why not, a line each); (None, []) where nothing is checked."""
  if row is None or not row.checkable or (row.domain == "coding" and code_rewards == "off"):
    return None, []
  # As a batch of one, for its protection: a row that cannot be checked is wrong, not an error.
  (correct,) = checking.is_correct_batch([row.domain], [row.answer], [row.truth], [row.metadata])
  return correct, [] if correct else [answer_problem(row)]


def answer_problem(row: Row) -> str:
  """Why an answer is not right, in one line."""
  if row.answer is None:
    return "no answer can be read"
  if row.domain == "math":
    stated = math_checking.stated_answer(row.answer)
    expected = math_checking.final_truth(row.truth)
    return (
      f"the answer states {stated!r} (None: no value, or two different ones), expected {expected!r}"
    )
  if row.domain == "coding":
    # Remembered from the check above, so no code runs a second time.
    (verdict,) = code_checking.code_verdicts([row.answer], [row.truth], [row.metadata])
    if verdict is None:
      return "the row has no tests"
    return f"{sum(verdict.results)} of {len(verdict.results)} tests pass: {verdict.error}"
  return f"the answer is {row.answer[:80]!r}, expected {row.truth[:80]!r}"
