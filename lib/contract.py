"""TODO-DOC contract."""

import functools
import hashlib
import re
import unicodedata
from typing import NamedTuple

from lib import errors, quantities

VERIFIABLE_DOMAINS = ("math", "coding", "science", "logic")
CREATIVE_DOMAINS = ("creative_writing", "creative_ideation", "summarization")
DOMAINS = VERIFIABLE_DOMAINS + CREATIVE_DOMAINS

# ------------------------------------------------------------------------------------------------ the prompt contract
STYLES = ("tags", "dual_stream")
SYSTEM_PROMPTS = {
  # Seed 000's text. Every later stage uses row["prompt"] as prepare_data.py rendered it, so this is its only copy.
  "tags": """Provide your reasoning in <reasoning> tags, then your final answer in <answer> tags.
Format:
<reasoning>Your step-by-step thinking</reasoning>
<answer>Your final answer</answer>""",
  "dual_stream": """Solve the task in four labelled sections inside <reasoning> tags, then give one final value in <answer> tags.
Format:
<reasoning>
Plan: the steps you will take
Reasoning: the steps carried out
Evidence: the calculations that support them
Sanity_check: why the answer makes sense
</reasoning>
<answer>Your final value</answer>""",
}
TURN_START, TURN_END = "<start_of_turn>", "<end_of_turn>"
CHAT_TEMPLATE = (
  TURN_START + "user\n{system}\n\nTask: {question}" + TURN_END + "\n" + TURN_START + "model\n"
)
SECTIONS = (
  "Plan",
  "Reasoning",
  "Evidence",
  "Sanity_check",
)  # of the dual-stream monologue, in this order (seed 002)


def format_prompt(question: str, style: str = "tags") -> str:
  """The chat text that the model continues; the tokenizer adds <bos>. A turn token in the question cannot end the user's turn."""
  errors.check_option("style", style, STYLES)
  question = (
    question.replace(TURN_START, " ").replace(TURN_END, " ").strip()
  )  # a space: what is left cannot join into a new one
  return CHAT_TEMPLATE.format(system=SYSTEM_PROMPTS[style], question=question)


def format_response(reasoning: str, answer: str) -> str:
  """The SFT target; the trainer appends the stop token. Inverse of `parse_response`."""
  return f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"


def prompt_hash(style: str = "tags") -> str:
  """16 hex digits that change with any character of the prompt text, white space included."""
  return hashlib.sha256(format_prompt("?", style).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------- reading a response
MAX_READ = 4000  # characters of an answer's end that are read: what is stated last counts
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
TAG_SPLIT = re.compile("|".join(TAGS))
TAG_LIKE = re.compile(
  r"<\s*/?\s*(?:reasoning|answer)\b[^<>]*>?", re.I
)  # also <ANSWER>, </ answer>, <answer id=1>: all cheats
OUTER = " \t\r\n\f\v\ufeff"
HEADING = re.compile(rf"^[ \t]*({'|'.join(SECTIONS)}):", re.M)


class Response(NamedTuple):
  reasoning: str
  answer: str


@functools.lru_cache(maxsize=512)  # each component of a reward asks about the same text
def parse_response(text: str, style: str = "tags") -> Response | None:
  """The two parts, stripped, of a response whose format is exactly right; None for any other.

  Right is one reasoning block, then one answer block, neither empty, only white space around and between (a BOM and CRLF too),
  no tag or turn marker inside; for "dual_stream" (seed 002) also the four headings in order, with content, and a scalar answer.
  """
  return (
    None
    if format_problems(text, style)
    else Response(*(part.strip(OUTER) for part in TAG_SPLIT.split(text)[1::2]))
  )


def format_problems(text: str, style: str = "tags") -> list[str]:
  """What keeps a response from the exact format, in words. Plain counts and splits: linear in the text whatever it holds."""
  errors.check_option("style", style, STYLES)
  found = [m.group() for m in TAG_LIKE.finditer(text)]
  problems = [
    f"{tag} occurs {n} times" if n else f"{tag} is missing"
    for tag in TAGS
    if (n := text.count(tag)) != 1
  ]
  problems += ["it holds a turn marker"] * (TURN_START in text or TURN_END in text)
  problems += [f"{tag[:40]!r} looks like a tag but is none" for tag in found if tag not in TAGS][:1]
  if problems or tuple(found) != TAGS:
    return problems or ["the tags are out of order or nested"]
  before, reasoning, between, answer, after = (part.strip(OUTER) for part in TAG_SPLIT.split(text))
  around, blocks = (
    {"before": before, "between": between, "after": after},
    {"reasoning": reasoning, "answer": answer},
  )
  problems = [
    f"there is text {where} the blocks: {part[:40]!r}" for where, part in around.items() if part
  ]
  problems += [
    f"the {name} block is empty" for name, part in blocks.items() if not says_something(part)
  ]
  if style == "dual_stream" and not problems:
    if not read_sections(reasoning):
      problems.append(
        f"the reasoning does not have {', '.join(SECTIONS)} as headings, each once, in order and with content"
      )
    if not is_scalar(answer):
      problems.append("the answer is not one value")
  return problems


def says_something(text: str) -> bool:
  """Holds a letter, digit or symbol; dots, spaces and zero-width characters alone are an empty block in disguise."""
  return bool(re.search(r"[^\W_]", text)) or any(
    unicodedata.category(c)[0] in "LNS" for c in text[:MAX_READ]
  )


def read_sections(reasoning: str) -> dict[str, str] | None:
  """The dual-stream sections by heading; None unless all four stand in order, each once and with content."""
  before, *pieces = HEADING.split(reasoning)
  in_order = tuple(pieces[::2]) == SECTIONS and not before.strip()
  return (
    dict(zip(SECTIONS, pieces[1::2]))
    if in_order and all(map(says_something, pieces[1::2]))
    else None
  )


def is_scalar(answer: str) -> bool:
  """One value: a number with or without its unit, an expression without spaces, or up to three words that hold no number."""
  words = answer.split()
  short = len(words) == 1 or len(words) <= 3 and not re.search(r"\d", answer)
  return quantities.read_number(answer) is not None or (
    short and len(answer) <= 64 and not re.search(r"[;\n]|,(?!\d{3})|\b(?:or|and)\b", answer)
  )


def extract_answer(text: str) -> str | None:
  """Lenient reading: what stands after the last <answer>, closed or not; None without one or with nothing in it."""
  *before, last = re.split(r"<answer>", text, flags=re.I)
  answer = re.split(r"</?\s*answer\b|<end_of_turn>", last, maxsplit=1, flags=re.I)[0].strip(OUTER)
  return answer if before and says_something(answer) else None


def read_answer(text: str, response: Response | None) -> str:
  """What a text answers: by its strict reading `response`, else leniently, else all of it: a model without tags can be right."""
  return response.answer if response else extract_answer(text) or text


SPLITS = ("train", "val", "test")
