"""The verdicts on a response: format, answer, what every reward system pays, a judge's grades.

`responses_of` makes rows of responses.jsonl from completions, `score` adds the verdicts,
`judge_creative` the grades of a model that judges the domains without right answers.
"""

import collections
import re

import numpy as np

from lib import (
  checking,
  command_line,
  failures,
  jsonl,
  llm_judge,
  reward_rows,
  sampling,
  scoring,
  tokenization,
)
from lib.loading import Policy
from lib.visible import hide_secrets

# Few enough that an interruption loses few replies that were paid for.
JUDGED_AT_ONCE = 64  # responses between two saves

# Lenient format: the four tags in order, each block with something in it, whatever stands around
# and between and however the tags are spelled. Each (?>…) is atomic: it takes the earliest match
# and never tries a later one, which finds the same texts, since the earliest opening tag leaves the
# most room for the rest. Without it a text that loops over the tags takes minutes.
LENIENT = re.compile(
  r"""\A
  (?> .*? <reasoning> \s* [^<\s] )   # up to the first character inside the reasoning
  (?> .*? </reasoning> )
  (?> .*? <answer> \s* [^<\s] )      # up to the first character inside the answer
  .*? </answer>""",
  re.DOTALL | re.IGNORECASE | re.VERBOSE,
)


def responses_of(policy: Policy, part: list[dict], completions: np.ndarray) -> list[dict]:
  """Rows for responses.jsonl, not yet judged; completions: ids (B, G, T), G samples of each row."""
  responses = []
  for row, samples in zip(part, completions, strict=True):
    # The stop token counts as a token; what was cut at the limit has none.
    lengths, stopped = sampling.completion_lengths(samples)
    for number, ids in enumerate(samples):
      length = int(lengths[number])
      responses.append(
        {
          **{key: row[key] for key in ("id", "domain", "question", "prompt")},
          "answer": row.get("answer") or "",
          "metadata": row.get("metadata") or {},
          "sample": number,
          "response": tokenization.decode(policy.tokenizer, ids[:length]),
          "tokens": length,
          "truncated": not stopped[number],
        }
      )
  return responses


def is_checkable(response: dict, code_rewards: str) -> bool:
  """Whether there is something to check an answer against: a truth, or tests where code may run."""
  checked = checking.is_checked(response["domain"], response["metadata"], code_rewards)
  return checked and bool(response["answer"] or response["metadata"].get("test_cases"))


def score(
  responses: list[dict], style: str, systems: dict[str, list], code_rewards: str = "on"
) -> list[dict]:
  """Adds the verdicts to each response; returns the responses.

  These are format, lenient_format, parsed_answer, correct, correct_lenient, partial, and rewards
  by component.

  The answer is read strictly, or leniently where the format is broken, and checked once. A row of a
  verifiable domain that cannot be checked gets the format verdicts only; a creative row is never
  right or wrong. systems: {name: reward functions}.
  """
  # One reading serves the format, the answer and every reward.
  readings = scoring.read_texts([response["response"] for response in responses], style)
  checkable = [is_checkable(response, code_rewards) for response in responses]
  answers = []
  for reading, can_check in zip(readings, checkable, strict=True):
    # None is never run or compared: it is worth 0.
    answers.append(reading.lenient if can_check else None)
  # All answers at once: their programs run side by side in the sandbox.
  credits = scoring.credits(responses, answers)
  paid = pay(responses, systems)
  for number, response in enumerate(responses):
    # The values of one response, out of the lists of the batch.
    rewards = {
      system: {name: float(values[number]) for name, values in components.items()}
      for system, components in paid.items()
    }
    credit = float(credits[number]) if checkable[number] else None
    response.update(read_verdicts(response, readings[number].strict, credit))
    # Without a truth every reward but format's would say "wrong".
    # A creative row has no truth either, but its rewards do not ask for one.
    has_truth = checking.is_checked(response["domain"], response["metadata"])
    unknown = has_truth and not checkable[number]
    response["rewards"] = None if unknown else rewards
  return responses


def read_verdicts(response: dict, strict: str | None, credit: float | None) -> dict:
  """What the strict reading and a credit in [0, 1] say; credit None: nothing to check."""
  well_formed = strict is not None
  verdict = {
    "format": well_formed,
    "lenient_format": well_formed or bool(LENIENT.search(response["response"])),
    "parsed_answer": strict,
    "correct": None,
    "correct_lenient": None,
    "partial": None,
  }
  # Near numbers and programs that pass some tests have a credit between 0 and 1.
  if credit is not None:
    # Accuracy counts whole answers; half the tests passed is partial credit.
    right = credit == 1.0
    verdict["correct"] = well_formed and right
    # In mathematics alone the last number of an untagged text is an answer: the "flexible extract"
    # of the LM Evaluation Harness.
    verdict["correct_lenient"] = right or (
      not well_formed
      and response["domain"] == "math"
      and checking.last_number_correct(response["response"], response["answer"])
    )
    verdict["partial"] = credit if well_formed else 0.0
  return verdict


def pay(responses: list[dict], systems: dict[str, list]) -> dict:
  """{reward system: {component: values (B,)}}."""
  prompts = [response["prompt"] for response in responses]
  texts = [response["response"] for response in responses]
  columns = reward_rows.columns_of(responses)
  # By the function's name, which charts and tables show.
  return {
    system: {function.__name__: function(prompts, texts, **columns) for function in functions}
    for system, functions in systems.items()
  }


def judge_creative(responses: list[dict], url: str, judge_model: str, path) -> dict:
  """Adds a judge's grades to the responses without a right answer; returns counts.

  response["judge"] holds reasoning 1–5, answer 1–5, overall 0–10 and the judge's model.
  Saved into `path` after every few, so that an interrupted or unreachable judge is asked only for
  what is left. Another judge_model starts again. Once a whole part went unanswered the rest is not
  tried.
  """
  creative = [r for r in responses if not checking.is_checked(r["domain"], r["metadata"])]
  # What this judge has graded already stays: its replies cost money.
  todo = [r for r in creative if r.get("judge", {}).get("model") != judge_model]
  command_line.say(f"judge {judge_model}: {len(todo)} of {len(creative)} responses to go")
  # Failures are counted since the process began; these are the judge's.
  earlier = collections.Counter(failures.failed_rows())
  counts = collections.Counter()
  for response in todo:
    # Another judge's grades do not mix with this one's.
    response.pop("judge", None)
  for start in range(0, len(todo), JUDGED_AT_ONCE):
    part = todo[start : start + JUDGED_AT_ONCE]
    verdicts = llm_judge.judge(part, url, judge_model)
    for response, verdict in zip(part, verdicts, strict=True):
      if verdict:
        response["judge"] = {**verdict._asdict(), "model": judge_model}
    # The whole file, not only the part: a row stands where it stood.
    jsonl.write_rows(path, responses)
    counts = collections.Counter(failures.failed_rows()) - earlier
    # A judge that answered none of them is down, and would be asked in vain.
    if counts["judge_failed"] and not any(verdicts):
      break
  judged = sum("judge" in response for response in creative)
  # What was never tried, after a judge was found down, failed as well.
  failed = len(creative) - judged - counts["judge_malformed"]
  error = ""
  if failed:
    error = (
      f"the judge at {hide_secrets(url)} gave no reply to {failed} of {len(creative)} responses"
    )
  return {
    "model": judge_model,
    "n": judged,
    "malformed": counts["judge_malformed"],
    "retried": counts["judge_retried"],
    "failed": failed,
    "error": error,
  }
