"""TODO-DOC checking."""

import collections
import itertools
import re
import unicodedata
from fractions import Fraction

from lib import code_checking, contract, failures, math_checking, own_checks, quantities

# --------------------------------------------------------------------------------- checking: science, logic, code, batches
ARTICLES = {"a", "an", "the"}
LEAD_IN = re.compile(
  r"\A(?:(?:so|thus|therefore|hence)\W+)?(?:the\s+)?(?:(?:final|correct|right|best)\s+)?"
  r"(?:answer|option|choice)(?:\s+(?:is|would be))?\s*:?\s+(?=\S)|\Ait(?:\s+is|'s)\s+",
  re.I,
)
LETTER = re.compile(
  r"(?:option\s+|choice\s+)?[(\[]?\s*([A-Za-z]|[1-9])\s*[)\].:]*(?:\s*[-:.)]\s*|\s+|$)(.*)",
  re.I | re.S,
)
MARKUP = " \n*_\"'`"  # around a bare answer


def normalize(text: str) -> str:
  """Lower-case words without punctuation, accents' variants and articles; enough for "The Mitochondria." = "mitochondria"."""
  text = (
    unicodedata.normalize("NFKC", re.sub(r"(?<=\d)(?=[⁰¹²³⁴-⁹⁻])", "^", text))
    .replace("−", "-")
    .casefold()
  )  # 10⁵ is no 105
  words = re.findall(
    r"\w+|[+%=<>≤≥]|-(?=\d)|(?<=\w)-(?!\w)", re.sub(r"(?<=\w)['’](?=\w)", "", text)
  )  # Na- is no Na
  return " ".join([w for w in words if w not in ARTICLES] or words)


def answer_part(text: str) -> str:
  """The answer of a whole response that is given in place of its answer."""
  return (contract.extract_answer(text) or text)[-contract.MAX_READ :]


def science_correct(answer: str, truth: str, metadata: dict) -> bool:
  """The truth as text, or its option's letter or text where the choices are known; a letter with another's text is wrong."""
  answer = answer_part(answer)
  bare, choices = LEAD_IN.sub("", answer.strip(MARKUP), count=1), read_choices(metadata)
  right = chosen_text(truth, choices)
  if right is not None:
    said = chosen_text(answer, choices)
    return right == (chosen_text(bare, choices) if said is None else said)
  wanted, a, b = normalize(truth), quantities.read_number(bare), quantities.read_number(truth)
  unit = lambda text: normalize(re.sub(r"[\d.,/+-]", " ", text))
  same = a and b and unit(bare) == unit(truth) and math_checking.same_number(a, b)
  return bool(wanted and (same or wanted in (normalize(answer), normalize(bare))))


def read_choices(metadata: dict) -> dict[str, str]:
  """Normalized text by label of metadata["choices"]: texts, {"label", "text"} each, or ARC's {"text": […], "label": […]}."""
  choices = metadata.get("choices") or []
  if isinstance(choices, dict) and "text" not in choices:
    choices = [{"label": label, "text": text} for label, text in choices.items()]
  elif isinstance(choices, dict):
    choices = [
      {"text": t, "label": l}
      for t, l in itertools.zip_longest(choices["text"], choices.get("label", []))
    ]
  choices = [
    (c.get("label"), c.get("text", "")) if isinstance(c, dict) else (None, c) for c in choices
  ]
  return {
    str(label or chr(ord("a") + i)).casefold(): normalize(str(text))
    for i, (label, text) in enumerate(choices)
  }


def chosen_text(answer: str, choices: dict[str, str]) -> str | None:
  """The option that `answer` names by text or letter; None for neither, several, and a letter and a text that differ."""
  said, match = normalize(answer), LETTER.fullmatch(answer.strip(MARKUP))
  text, rest = (choices.get(match[1].casefold()), normalize(match[2])) if match else (None, "")
  if text is not None and (not rest or rest in choices.values()):
    return text if rest in ("", text) else None
  return said if said in choices.values() else None


def stated_verdict(text: str) -> bool | None:
  """The yes or no that a text states as a word ("no" does not stand in "know"); None for both, neither and "not true"."""
  verdicts = {"yes": True, "true": True, "no": False, "false": False}
  words = re.findall(r"[a-z']+", text.lower().replace("’", "'"))
  if any(
    (w in ("not", "never") or w.endswith("n't")) and v in verdicts
    for w, v in itertools.pairwise(words)
  ):
    return None
  found = {verdicts[w] for w in words if w in verdicts}
  return found.pop() if len(found) == 1 else None


def is_correct(domain: str, answer: str, truth: str, metadata: dict | None = None) -> bool:
  """Is `answer` (a final answer, a sentence, or a whole response) right? `truth` is the row's answer; for coding the reference
  code, with metadata's test_cases, test_setup_code. Raises ValueError for a domain without right answers.
  """
  answer, truth, metadata = str(answer), str(truth), metadata or {}
  way = own_checks.way_of(domain, metadata)
  if way in ("math", "number"):
    return math_checking.math_correct(answer, truth)
  if way in ("science", "choice"):
    return science_correct(answer, truth, metadata)
  if way == "exact":
    return own_checks.same_text(answer_part(answer), truth)
  if ":" in way:
    return own_checks.ask(way, answer_part(answer), truth, metadata)
  if domain == "logic":
    said = stated_verdict(answer_part(answer))
    return said is not None and said == stated_verdict(truth)
  if domain == "coding":
    return (
      code_checking.code_share(code_checking.code_verdicts([answer], [truth], [metadata])[0]) == 1.0
    )
  raise ValueError(
    f"domain {domain!r} has no right answers; those that have: {', '.join(contract.VERIFIABLE_DOMAINS)}"
  )


def is_correct_batch(
  domains, answers, truths, metadatas=None, code_rewards: str = "on"
) -> list[bool]:
  """`is_correct` for lists, all code in one sandbox call; a row that cannot be checked is False and counted, never an error."""
  return [g == 1.0 for g in grade(domains, answers, truths, metadatas, code_rewards)]


def majority(domain: str, votes: list[tuple[str | None, bool]]) -> bool:
  """Whether the answer that most samples of a row gave is right; the earlier wins a tie, equal numbers vote as one.

  votes: (answer, is it right) of each sample; an answer None does not vote.
  """
  count, right = collections.Counter(), {}
  for answer, correct in votes:
    if answer is not None:
      key = " ".join(answer.casefold().split()).rstrip(".")
      key = next(
        (k for k in count if k == key or domain == "math" and is_correct("math", key, k)), key
      )
      count[key] += 1
      right.setdefault(key, correct)
  return bool(count) and right[max(count, key=count.get)]


NEAR = (
  (Fraction(1, 10), 1 / 6),
  (Fraction(1, 5), 1 / 12),
)  # within 10% and 20%: 0.5 and 0.25 of 3, as Tunix's GSM8K recipe


def checked_domains(code_rewards: str = "on") -> tuple[str, ...]:
  """The domains whose answers are checked: those with right answers, without coding where no code may run."""
  return tuple(
    domain for domain in contract.VERIFIABLE_DOMAINS if domain != "coding" or code_rewards == "on"
  )


def is_checked(domain: str, metadata: dict | None = None, code_rewards: str = "on") -> bool:
  """Whether a row's answer is checked: it has a right answer, and no code that may not run."""
  way = own_checks.way_of(domain, metadata or {})
  return way != "" and (way != "coding" or code_rewards == "on")


def grade(domains, answers, truths, metadatas=None, code_rewards: str = "on") -> list[float]:
  """Partial credit in [0, 1] per row: 1 only for a right answer. Math: near numbers a little. Science: a right answer in a few
  more words half. Coding: half the share of tests passed. None as an answer, and a domain without right answers: 0.
  """
  truths, metadatas = (
    ["" if t is None else str(t) for t in truths],
    [m or {} for m in metadatas or [None] * len(answers)],
  )
  grades, code = [0.0] * len(answers), {}
  for i, (domain, *row) in enumerate(zip(domains, answers, truths, metadatas)):
    if domain == "coding" and row[0] is not None and code_rewards != "off":
      code[i] = row
    elif row[0] is not None:
      try:
        if is_checked(domain, row[2], "off"):
          grades[i] = 1.0 if is_correct(domain, *row) else near_credit(domain, *row)
      except Exception as error:  # model text must not end a run of hours, whatever it found
        failures.failed(error)
  for i, verdict in zip(code, code_checking.code_verdicts(*zip(*code.values())) if code else []):
    share = code_checking.code_share(verdict)
    grades[i] = 1.0 if share == 1.0 else 0.5 * share
  return grades


def near_credit(domain: str, answer: str, truth: str, metadata: dict) -> float:
  if domain == "math":
    number, right = (
      quantities.read_number(math_checking.stated_answer(answer) or ""),
      quantities.read_number(math_checking.final_truth(truth)),
    )
    off = abs(number.value / right.value - 1) if number and right and right.value else 1
    return next((credit for limit, credit in NEAR if off <= limit), 0.0)
  if domain == "science" and not metadata.get("choices"):
    said, wanted = normalize(answer).split(), normalize(truth).split()
    n = len(wanted)
    return 0.5 * (
      n > 0
      and n < len(said) <= 3 * n + 3
      and any(said[i : i + n] == wanted for i in range(len(said) - n + 1))
    )
  return 0.0
