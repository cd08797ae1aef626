"""The contract that every stage shares: the domains, the prompt, and the form of a response.

`format_prompt` renders the chat text once, in prepare_data.py; every later stage uses it as it
stands in the row. `format_response` writes a training target, `parse_response` reads one back and
accepts nothing but the exact form; `format_problems` says in words what is wrong with another.
`extract_answer` and `read_answer` read leniently, for what is measured but not paid.
"""

import functools
import hashlib
import re
import unicodedata
from typing import NamedTuple

from lib import errors, quantities

VERIFIABLE_DOMAINS = ("math", "coding", "science", "logic")  # their answers are right or wrong
CREATIVE_DOMAINS = ("creative_writing", "creative_ideation", "summarization")
DOMAINS = VERIFIABLE_DOMAINS + CREATIVE_DOMAINS
SPLITS = ("train", "val", "test")

STYLES = ("tags", "dual_stream")
SYSTEM_PROMPTS = {
  # The multi_domain write-up's text. Later stages read row["prompt"], so this is its only copy.
  "tags": (
    "Provide your reasoning in <reasoning> tags, then your final answer in <answer> tags.\n"
    "Format:\n"
    "<reasoning>Your step-by-step thinking</reasoning>\n"
    "<answer>Your final answer</answer>"
  ),
  "dual_stream": (
    "Solve the task in four labelled sections inside <reasoning> tags, "
    "then give one final value in <answer> tags.\n"
    "Format:\n"
    "<reasoning>\n"
    "Plan: the steps you will take\n"
    "Reasoning: the steps carried out\n"
    "Evidence: the calculations that support them\n"
    "Sanity_check: why the answer makes sense\n"
    "</reasoning>\n"
    "<answer>Your final value</answer>"
  ),
}
TURN_START = "<start_of_turn>"
TURN_END = "<end_of_turn>"
# Gemma's chat format has no system turn: the system text opens the user's.
CHAT_TEMPLATE = (
  TURN_START + "user\n{system}\n\nTask: {question}" + TURN_END + "\n" + TURN_START + "model\n"
)
# Of the dual-stream monologue, in this order.
SECTIONS = ("Plan", "Reasoning", "Evidence", "Sanity_check")

MAX_READ = 4000  # characters of an answer's end that are read: what is stated last counts
MAX_SCALAR = 64  # characters of a dual-stream answer that is no number
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
# "<reasoning>r</reasoning>\n<answer>a</answer>" → ["", "r", "\n", "a", ""]
TAG_SPLIT = re.compile("|".join(TAGS))
# Also "<ANSWER>", "</ answer>" and "<answer id=1>", which are all cheats.
TAG_LIKE = re.compile(r"<\s*/?\s*(?:reasoning|answer)\b[^<>]*>?", re.I)
# Space that may stand around the blocks; a BOM is what Windows editors put first.
OUTER_SPACE = " \t\r\n\f\v\ufeff"
HEADING = re.compile(rf"^[ \t]*({'|'.join(SECTIONS)}):", re.M)
# What separates two values: ";", a line, a comma outside a number ("1,234" is one value), a word.
SEVERAL_VALUES = re.compile(r"[;\n]|,(?!\d{3})|\b(?:or|and)\b")


class Response(NamedTuple):
  reasoning: str
  answer: str


def format_prompt(question: str, style: str = "tags") -> str:
  """The chat text that the model continues; the tokenizer adds <bos>.

  A turn marker in the question becomes a space, so it can neither end the user's turn nor join
  with its neighbours into a new marker.
  """
  errors.check_option("style", style, STYLES)
  # A space in its place: without it, what stands around a removed marker could form a new one.
  question = question.replace(TURN_START, " ").replace(TURN_END, " ").strip()
  return CHAT_TEMPLATE.format(system=SYSTEM_PROMPTS[style], question=question)


def format_response(reasoning: str, answer: str) -> str:
  """The SFT target; the trainer appends the stop token. Inverse of `parse_response`."""
  return f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"


def prompt_hash(style: str = "tags") -> str:
  """16 hex digits that change with any character of the prompt text, white space included."""
  return hashlib.sha256(format_prompt("?", style).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=512)  # each component of a reward asks about the same text
def parse_response(text: str, style: str = "tags") -> Response | None:
  """The two parts, stripped, of a response whose format is exactly right; None for any other.

  Right is one reasoning block, then one answer block, neither empty, with only white space around
  and between (a BOM and CRLF too), and no tag or turn marker inside. For "dual_stream" also the
  four headings in order, with content, and one value as the answer.
  """
  if format_problems(text, style):
    return None
  _, reasoning, _, answer, _ = TAG_SPLIT.split(text)
  return Response(reasoning.strip(OUTER_SPACE), answer.strip(OUTER_SPACE))


def format_problems(text: str, style: str = "tags") -> list[str]:
  """What keeps a response from the exact format, in words; [] where nothing does.

  Only counts and splits, so its time is linear in the text whatever that holds.
  """
  errors.check_option("style", style, STYLES)
  problems = tag_problems(text)
  if problems:
    return problems
  # All four tags stand once and in order here, so the split has five parts.
  before, reasoning, between, answer, after = TAG_SPLIT.split(text)
  for where, part in (("before", before), ("between", between), ("after", after)):
    if stray := part.strip(OUTER_SPACE):
      problems.append(f"there is text {where} the blocks: {stray[:40]!r}")
  for name, part in (("reasoning", reasoning), ("answer", answer)):
    if not says_something(part.strip(OUTER_SPACE)):
      problems.append(f"the {name} block is empty")
  if style == "dual_stream" and not problems:
    problems = dual_stream_problems(reasoning.strip(OUTER_SPACE), answer.strip(OUTER_SPACE))
  return problems


def tag_problems(text: str) -> list[str]:
  """Tags that are missing, repeated, disguised or out of order, and turn markers."""
  problems = []
  for tag in TAGS:
    count = text.count(tag)
    if count == 0:
      problems.append(f"{tag} is missing")
    elif count > 1:
      problems.append(f"{tag} occurs {count} times")
  if TURN_START in text or TURN_END in text:
    problems.append("it holds a turn marker")
  found = tuple(match.group() for match in TAG_LIKE.finditer(text))
  disguised = next((tag for tag in found if tag not in TAGS), None)
  if disguised:
    problems.append(f"{disguised[:40]!r} looks like a tag but is none")
  if not problems and found != TAGS:
    problems.append("the tags are out of order or nested")
  return problems


def dual_stream_problems(reasoning: str, answer: str) -> list[str]:
  problems = []
  if not read_sections(reasoning):
    headings = ", ".join(SECTIONS)
    problems.append(
      f"the reasoning does not have {headings} as headings, each once, in order and with content"
    )
  if not is_scalar(answer):
    problems.append("the answer is not one value")
  return problems


def says_something(text: str) -> bool:
  """Holds a letter, digit or symbol; dots, spaces and zero-width characters are an empty block."""
  # The cheap test first: nearly every text holds a letter or a digit.
  if re.search(r"[^\W_]", text):
    return True
  return any(unicodedata.category(character)[0] in "LNS" for character in text[:MAX_READ])


def read_sections(reasoning: str) -> dict[str, str] | None:
  """The dual-stream sections by heading; None unless all stand in order, once and with content."""
  # With a group in its pattern, split returns heading, body, heading, body, …
  before, *pieces = HEADING.split(reasoning)
  headings, bodies = pieces[::2], pieces[1::2]
  if before.strip() or tuple(headings) != SECTIONS:
    return None
  if not all(says_something(body) for body in bodies):
    return None
  return dict(zip(headings, bodies, strict=True))


def is_scalar(answer: str) -> bool:
  """One value: a number with its unit, an expression without spaces, or up to three plain words."""
  if quantities.read_number(answer) is not None:
    return True
  # "blue whale" is one value; "3 4" are two, and so are "cats or dogs".
  words = answer.split()
  short = len(words) == 1 or (len(words) <= 3 and not re.search(r"\d", answer))
  return short and len(answer) <= MAX_SCALAR and not SEVERAL_VALUES.search(answer)


def extract_answer(text: str) -> str | None:
  """Lenient reading: what stands after the last <answer>, closed or not; None for nothing there."""
  _, *rest = re.split(r"<answer>", text, flags=re.I)
  if not rest:
    return None
  # The closing tag may be missing, as in a response that was cut off.
  answer = re.split(r"</?\s*answer\b|<end_of_turn>", rest[-1], maxsplit=1, flags=re.I)[0]
  answer = answer.strip(OUTER_SPACE)
  return answer if says_something(answer) else None


def read_answer(text: str, response: Response | None) -> str:
  """What a text answers, for what is measured and not paid.

  By its strict reading `response`, else what follows <answer>, else all of it: a model without tags
  can be right.
  """
  if response:
    return response.answer
  return extract_answer(text) or text


def answer_part(text: str) -> str:
  """The end of the answer in a whole response that is given in place of its answer."""
  return (extract_answer(text) or text)[-MAX_READ:]
