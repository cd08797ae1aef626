"""Is an answer right? One question for every domain, for one row or a batch, with partial credit.

`is_correct` asks the domain's own file (math_checking, science_checking, logic_checking,
code_checking; own_checks for a domain of the user's). `is_correct_batch` does it for lists, with
all code in one sandbox call; `grade` adds the partial credit that the reward systems pay.
`last_number_correct` reads generously, to measure a model that was not taught the form, and is
never paid. `majority` is the vote of several samples.
"""

import collections
import re
from fractions import Fraction

from lib import (
  code_checking,
  contract,
  failures,
  logic_checking,
  math_checking,
  own_checks,
  quantities,
  science_checking,
  statements,
)

# (within this share of the true number, credit): 0.5 and 0.25 of 3, as Tunix's GSM8K recipe pays
NEAR_NUMBERS = ((Fraction(1, 10), 1 / 6), (Fraction(1, 5), 1 / 12))
LAST_NUMBER = re.compile(rf"(?<![\w.])-?(?:{quantities.DIGITS})(?![\w])")


def is_correct(domain: str, answer: str, truth: str, metadata: dict | None = None) -> bool:
  """Is `answer` (a final answer, a sentence, or a whole response) right?

  `truth` is the row's answer; for coding the reference code, with metadata's test_cases and
  test_setup_code. Raises ValueError for a domain without right answers.
  """
  # A row of the user's may hold 72 or None where others hold text.
  answer, truth, metadata = str(answer), str(truth), metadata or {}
  way = own_checks.way_of(domain, metadata)
  # A check of the user's and a domain of ours can be the same reading of an answer.
  if way in ("math", "number"):
    return math_checking.math_correct(answer, truth)
  if way in ("science", "choice"):
    return science_checking.science_correct(answer, truth, metadata)
  if way == "logic":
    return logic_checking.logic_correct(answer, truth)
  if way == "coding":
    # A batch of one: code is always judged in the sandbox.
    (verdict,) = code_checking.code_verdicts([answer], [truth], [metadata])
    return code_checking.code_share(verdict) == 1.0
  if way == "exact":
    return own_checks.same_text(contract.answer_part(answer), truth)
  if ":" in way:  # FILE.py:FUNCTION
    return own_checks.ask(way, contract.answer_part(answer), truth, metadata)
  raise ValueError(
    f"domain {domain!r} has no right answers; "
    f"those that have: {', '.join(contract.VERIFIABLE_DOMAINS)}"
  )


def is_correct_batch(
  domains, answers, truths, metadatas=None, code_rewards: str = "on"
) -> list[bool]:
  """`is_correct` for lists, all code in one sandbox call.

  A row that cannot be checked is False and counted, never an error.
  """
  # Exactly 1.0 is what `grade` gives right answers alone; partial credit stays at or below 0.5.
  return [credit == 1.0 for credit in grade(domains, answers, truths, metadatas, code_rewards)]


def checked_domains(code_rewards: str = "on") -> tuple[str, ...]:
  """The domains whose answers are checked: not coding where no code may run."""
  if code_rewards == "on":
    return contract.VERIFIABLE_DOMAINS
  return tuple(domain for domain in contract.VERIFIABLE_DOMAINS if domain != "coding")


def is_checked(domain: str, metadata: dict | None = None, code_rewards: str = "on") -> bool:
  """Whether a row's answer is checked: it has a right answer, and no code that may not run."""
  way = own_checks.way_of(domain, metadata or {})
  return way != "" and (way != "coding" or code_rewards == "on")


def grade(domains, answers, truths, metadatas=None, code_rewards: str = "on") -> list[float]:
  """Credit in [0, 1] per row: 1 only for a right answer, 0 for None and for creative domains.

  Math: near numbers a little. Science: a right answer in a few more words half. Coding: half the
  share of tests passed.
  """
  truths = ["" if truth is None else str(truth) for truth in truths]
  metadatas = [metadata or {} for metadata in metadatas or [None] * len(answers)]
  credits = []
  code_rows = []
  for index, (domain, answer, truth, metadata) in enumerate(
    zip(domains, answers, truths, metadatas, strict=True)
  ):
    # The default of whatever is not graded below.
    credits.append(0.0)
    if answer is None:
      continue
    if domain == "coding" and code_rewards != "off":
      # Programs wait, so that all of them share one sandbox call.
      code_rows.append(index)
    elif domain != "coding":
      credits[index] = text_credit(domain, answer, truth, metadata)
  if code_rows:
    # Only the waiting rows' answers, truths and metadata, in that order.
    columns = [[column[index] for index in code_rows] for column in (answers, truths, metadatas)]
    for index, verdict in zip(code_rows, code_checking.code_verdicts(*columns), strict=True):
      share = code_checking.code_share(verdict)
      # Half at most for a part of the tests: 9 of 10 is not nearly right.
      credits[index] = 1.0 if share == 1.0 else 0.5 * share
  return credits


def text_credit(domain: str, answer: str, truth: str, metadata: dict) -> float:
  """1 for a right answer, else what being near is worth; 0, and counted, where reading it fails."""
  try:
    if not is_checked(domain, metadata):
      return 0.0
    if is_correct(domain, answer, truth, metadata):
      return 1.0
    if domain == "math":
      return near_number_credit(answer, truth)
    # Of options one is right and the others wrong: nothing is near.
    if domain == "science" and not metadata.get("choices"):
      return wordy_credit(answer, truth)
    return 0.0
  except Exception as error:  # model text must not end a run of hours, whatever it found
    failures.failed(error)
    return 0.0


def near_number_credit(answer: str, truth: str) -> float:
  """A little for a number within 10% or 20% of the true one."""
  stated = math_checking.stated_answer(answer)
  number = quantities.read_number(stated) if stated else None
  right = quantities.read_number(math_checking.final_truth(truth))
  # Near is relative, and nothing is within 10% of 0.
  if not number or not right or right.value == 0:
    return 0.0
  # Truth 100: 108 is off by 0.08 and gets 1/6, 85 is off by 0.15 and gets 1/12.
  off = abs(number.value / right.value - 1)
  # The narrower first: within 10% is within 20% too.
  return next((credit for limit, credit in NEAR_NUMBERS if off <= limit), 0.0)


def wordy_credit(answer: str, truth: str) -> float:
  """Half for the true words in a row among at most twice as many others, none of them a denial."""
  # "not osmosis" holds the true word, too.
  if statements.TURNED.search(answer):
    return 0.0
  said = science_checking.normalize(answer).split()
  wanted = science_checking.normalize(truth).split()
  n = len(wanted)
  # A long text would hold the true words by chance.
  if n == 0 or not n < len(said) <= 3 * n + 3:
    return 0.0
  # Every place at which the true words could begin.
  starts = range(len(said) - n + 1)
  return 0.5 if any(said[start : start + n] == wanted for start in starts) else 0.0


def last_number_correct(text: str, truth: str) -> bool:
  """Is the last number of a text that states nothing the true one?

  For measuring a model that was never shown the tags ("flexible extract" of the LM Evaluation
  Harness); it takes "more than 72" for 72, so nothing is ever paid by it.
  """
  # What states an answer has been read already, and must stand by it.
  if math_checking.stated_answer(text) is not None:
    return False
  # "$1,234.50." → ["1,234.50"]
  numbers = LAST_NUMBER.findall(quantities.simplify(text[-contract.MAX_READ :]))
  return bool(numbers) and math_checking.math_correct(numbers[-1].rstrip("."), truth)


def majority(domain: str, votes: list[tuple[str | None, bool]]) -> bool:
  """Whether the answer that most samples of a row gave is right; the earlier wins a tie.

  votes: (answer, is it right) of each sample; an answer None does not vote. Equal numbers, "7" and
  "7.0", vote as one.
  """
  count = collections.Counter()
  right = {}
  for answer, correct in votes:
    if answer is None:
      continue
    # "The  Cat." and "the cat" vote as one.
    key = " ".join(answer.casefold().split()).rstrip(".")
    for known in count:
      if known == key or (domain == "math" and is_correct("math", key, known)):
        key = known
        break
    count[key] += 1
    # The verdict of the first sample that gave this answer stands for all.
    right.setdefault(key, correct)
  return bool(count) and right[max(count, key=count.get)]
