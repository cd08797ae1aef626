"""What a good response is: the prompt, the tags, reading a response, checking an answer, the four reward systems.

Reads nothing to run; `--explain` reads a responses.jsonl that evaluate.py wrote. Imports no JAX: data preparation and tests
stay fast. The first section is the contract that every stage shares: rows, folders, flags and one-line errors.

  python rewards.py --self_test
  python rewards.py --explain=artifacts/run/eval_grpo/responses.jsonl
"""
import atexit
import collections
import errno
import functools
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from absl import flags

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
CHAT_TEMPLATE = TURN_START + "user\n{system}\n\nTask: {question}" + TURN_END + "\n" + TURN_START + "model\n"
SECTIONS = ("Plan", "Reasoning", "Evidence", "Sanity_check")  # of the dual-stream monologue, in this order (seed 002)


def format_prompt(question: str, style: str = "tags") -> str:
  """The chat text that the model continues; the tokenizer adds <bos>.

  Turn tokens inside the question are removed: text from a data set must not be able to end the user's turn.
  """
  if style not in STYLES:
    raise InputError(f"style {style!r} is unknown; valid: {', '.join(STYLES)}")
  question = question.replace(TURN_START, "").replace(TURN_END, "").strip()
  return CHAT_TEMPLATE.format(system=SYSTEM_PROMPTS[style], question=question)


def format_response(reasoning: str, answer: str) -> str:
  """The SFT target for a known solution; the trainer appends the stop token. Inverse of `parse_response`."""
  return f"<reasoning>{reasoning}</reasoning>\n<answer>{answer}</answer>"


def prompt_hash(style: str = "tags") -> str:
  """16 hex digits that change with any character of the prompt text, white space included."""
  return hashlib.sha256(format_prompt("?", style).encode()).hexdigest()[:16]


# ---------------------------------------------------------------------------------- rows, folders, flags, one-line errors
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "qwix", "google-tunix", "grain", "numpy", "sentencepiece")
EXIT_BAD_INPUT, EXIT_STOPPED = 2, 75  # 75: stopped early (deadline, SIGTERM, Ctrl-C) and can be continued


class InputError(ValueError):
  """Bad input. The message is one line: what was found, what was expected, what to do."""


class Stopped(Exception):
  """The run stopped early on purpose, with everything saved; the message says how to continue."""


def read_rows(path) -> list[dict]:
  """Rows of a JSONL file; a bad line is named."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise InputError(f"{path} does not exist; the stage that writes it has not run (see the table of files in README.md)")
  rows = []
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    try:
      rows.append(json.loads(line))
    except ValueError as error:  # JSON and UTF-8 errors alike
      raise InputError(f"{path}:{number} is not a JSON row ({error}); repair or delete the line") from error
  return rows


def write_text(path, text: str):
  """Writes a whole file or nothing: a reader never sees half of it."""
  path = pathlib.Path(path)
  partial = path.with_name(f".{path.name}.partial")
  partial.write_text(text, encoding="utf-8")
  os.replace(partial, path)


def write_config(out_dir, stage: str, flag_values: flags.FlagValues, style: str, **facts):
  """Marks a folder complete; always the last file a stage writes. `facts`: what later stages and readers need to know."""
  config = {"stage": stage, "flags": {name: flag_values[name].value for name in sorted(flag_values)}, "style": style,
            "prompt_hash": prompt_hash(style), "git_commit": git_commit(), "versions": versions(), **facts}
  write_text(pathlib.Path(out_dir) / "config.json", json.dumps(config, indent=1, sort_keys=True) + "\n")


def read_config(folder, made_by: str) -> dict:
  """config.json of a complete folder; `made_by` is the command that makes one."""
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise InputError(f"{folder} does not exist; make it with {made_by}")
  path = folder / "config.json"
  if not path.is_file():
    raise InputError(f"{folder} is incomplete: it has no config.json, which is written last; run {made_by} again")
  try:
    return json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise InputError(f"{path} is not JSON ({error}); run {made_by} again") from error


def check_prompt_hash(config: dict, folder, allow_mismatch: bool = False):
  """Refuses a folder made with another prompt text than this code's: a changed space cost a seed 39 points of format."""
  style = config.get("style", "tags")
  if config.get("prompt_hash") == prompt_hash(style) or allow_mismatch:
    return
  raise InputError(f"{folder} was made with prompt {config.get('prompt_hash')}, this code renders {prompt_hash(style)}: "
                   f"{format_prompt('?', style)!r}; prepare the data again or pass --allow_prompt_mismatch")


def versions() -> dict:
  found = {"python": sys.version.split()[0]}
  for name in PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found


def git_commit() -> str | None:
  """The commit of this code, "+" where the tree has changes; None outside a checkout."""
  here = pathlib.Path(__file__).resolve().parent
  describe = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
  try:
    result = subprocess.run(describe, capture_output=True, text=True, timeout=10)
  except (OSError, subprocess.TimeoutExpired):
    return None
  return result.stdout.strip() or None if result.returncode == 0 else None


def launch(main, flag_values: flags.FlagValues, doc: str | None = ""):
  """Runs a script's `main()`: parses sys.argv, then exits 0; 2 for bad input; 75 for an early stop; 1 for absl's flag errors.

  Each script keeps its flags in a FlagValues of its own, so that two scripts in one process (pytest, a second notebook cell,
  a re-run cell) never collide. In a notebook, sys.argv set in the cell's first lines gives the flags, errors are raised
  rather than turned into an exit, and the kernel's own argv is ignored.
  """
  notebook = "ipykernel" in sys.modules
  argv = sys.argv[:1] if notebook and any(a.endswith(".json") or a == "-f" for a in sys.argv[1:2]) else sys.argv
  if any(a in ("--help", "-h", "-help") for a in argv[1:]):
    return print(f"{doc or ''}\nflags:\n{flag_values.get_help()}")
  try:
    rest = flag_values(argv)[1:]
    if rest:
      raise flags.UnrecognizedFlagError(rest[0], f"unexpected argument {rest[0]!r}; flags are given as --name=value")
    main()
  except flags.Error as error:
    if notebook:
      raise
    sys.stderr.write(f"FATAL Flags parsing error: {error}\nPass --help to see the flags.\n")
    sys.exit(1)
  except (InputError, OSError) as error:
    if notebook or isinstance(error, OSError) and error.errno != errno.ENOSPC:
      raise
    sys.stderr.write("error: " + " ".join(str(error).split("\n")) + "\n")
    sys.exit(EXIT_BAD_INPUT)
  except Stopped as stop:
    sys.stderr.write(f"stopped: {stop}\n")
    if not notebook:
      sys.exit(EXIT_STOPPED)

# ------------------------------------------------------------------------------------------------- reading a response
TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
TAG_LIKE = re.compile(r"<\s*/?\s*(?:reasoning|answer)\b[^<>]*>?", re.I)  # also <ANSWER>, </ answer>, <answer id=1>: all cheats
OUTER = " \t\r\n\f\v\ufeff"


class Response(NamedTuple):
  """A well-formed response, both parts stripped."""
  reasoning: str
  answer: str


def parse_response(text: str, style: str = "tags") -> Response | None:
  """Reads a response whose format is exactly right; None for any other.

  Exactly one reasoning block, then exactly one answer block, neither empty, nothing around or between them but white space
  (a leading BOM and CRLF included), no tag or turn marker inside. "dual_stream" (seed 002) also wants the four headings, each
  once, in order and with content, and one scalar as the answer. Plain `find`s: linear in the text whatever it holds.
  """
  if style not in STYLES:
    raise InputError(f"style {style!r} is unknown; valid: {', '.join(STYLES)}")
  text = text.strip(OUTER)
  if not (text.startswith(TAGS[0]) and text.endswith(TAGS[3])) or TURN_START in text or TURN_END in text:
    return None
  if tuple(m.group() for m in TAG_LIKE.finditer(text)) != TAGS:
    return None
  reasoning, _, rest = text[len(TAGS[0]):-len(TAGS[3])].partition(TAGS[1])
  gap, _, answer = rest.partition(TAGS[2])
  reasoning, answer = reasoning.strip(OUTER), answer.strip(OUTER)
  if gap.strip(OUTER) or not says_something(reasoning) or not says_something(answer):
    return None
  if style == "dual_stream" and not (read_sections(reasoning) and is_scalar(answer)):
    return None
  return Response(reasoning, answer)


def says_something(text: str) -> bool:
  """Holds a letter, digit or symbol; dots, spaces and zero-width characters alone are an empty block in disguise."""
  return any(unicodedata.category(c)[0] in "LNS" for c in text)


def read_sections(reasoning: str) -> dict[str, str] | None:
  """The dual-stream sections by heading; None unless all four stand in order, each once and with content."""
  pieces = re.split(rf"^[ \t]*({'|'.join(SECTIONS)}):", reasoning, flags=re.M)
  bodies = dict(zip(pieces[1::2], pieces[2::2]))
  in_order = tuple(pieces[1::2]) == SECTIONS and not pieces[0].strip()
  return bodies if in_order and all(map(says_something, bodies.values())) else None


def is_scalar(answer: str) -> bool:
  """One value: a number with or without its unit, or one word such as "yes", "B" or an expression without spaces."""
  return read_number(answer) is not None or len(answer) <= 64 and not re.search(r"[\s;]|,(?!\d{3})", answer)


def extract_answer(text: str) -> str | None:
  """Lenient reading: what stands after the last <answer>, closed or not; None without one or with nothing in it."""
  matches = list(re.finditer(r"<answer>", text, re.I))
  if not matches:
    return None
  answer = re.split(r"</?\s*answer\b|<end_of_turn>", text[matches[-1].end():], maxsplit=1, flags=re.I)[0].strip(OUTER)
  return answer if says_something(answer) else None


# ---------------------------------------------------------------------------------------------- checking: mathematics
MAX_READ = 4000  # characters of an answer's end that are read: what is stated last counts
MAX_VALUE = 300  # characters of one value; longer is no final answer
TYPOGRAPHY = str.maketrans({
    "−": "-", "–": "-", "‒": "-", "﹣": "-", "－": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/", "⁄": "/", "∕": "/", "π": r"\pi ",
    "％": "%", "≈": "=", "º": "°", "º": "°", **dict.fromkeys("\u00a0\u2007\u2009\u202f\u2002\u2003\u2005\u2006\u200a\t", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""), **dict.fromkeys("€£¥₹₽¢$", " "),
    **{c: "^" + d for c, d in zip("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")},
    **{c: " " + f for c, f in zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8".split())}})
SIMPLIFY = [(re.compile(pattern), to) for pattern, to in [
    (r"<<[^<>]*>>", ""),                                            # GSM8K's calculator marks
    (r"</?[a-zA-Z][^<>]{0,60}>", " "),                              # stray HTML and tags
    (r"\\[!]|\\(?:left|right|displaystyle|limits)(?![a-z])|\{\}", ""),
    (r"\\[,;:> ()\[\]$%]", lambda m: {"\\%": "%", "\\(": " ", "\\$": " "}.get(m.group(), " ")),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°", " degrees "),
    (r"\\(?:text(?:bf|it|rm|sf|tt)?|mathrm|mathbf|boldsymbol|mbox|operatorname|boxed|fbox)\s*\{([^{}]*)\}", r" \1 "),
    (r"\*\*([^*\n]+)\*\*", r" \1 "),                                # Markdown bold
    (r"\{,\}", ","),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\frac\s*(?:\{\s*(-?[\d.]+)\s*\}|(\d))\s*(?:\{\s*([\d.]+)\s*\}|(\d))",
     lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} "),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?))", lambda m: rf"\sqrt{{{m[1] or m[2]}}}"),
    (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\(?:times|cdot|ast)(?![a-z])", "*"), (r"\\div(?![a-z])", "/"), (r"\\(?:approx|equiv)(?![a-z])", "="),
    (r"(?<=\d)\s*[xX](?=\s*10\s*\^)", "*"),                         # 3 x 10^5
    (r"[ \r\f\v]+", " ")]]
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?![\d])|\d+)(?:\.\d+|\.(?!\d))?|\.\d+"
NUMBER = rf"(?:{DIGITS})(?:[eE][+-]?\d{{1,3}}|\s?\*\s?10\s?\^\s?\{{?\s?[+-]?\d{{1,3}}\}}?)?"
VALUE = rf"(?:(?P<whole>\d+)(?:\s+|\sand\s))?(?P<top>{NUMBER})\s?/\s?(?P<bottom>{NUMBER})|(?P<number>{NUMBER})"
MAGNITUDES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
WORDS = {w: Fraction(n) for n, w in enumerate("zero one two three four five six seven eight nine ten eleven twelve thirteen "
                                              "fourteen fifteen sixteen seventeen eighteen nineteen twenty".split())}
# What may follow a number and leave it a number: a unit of up to four words. A single letter other than a unit's is algebra.
NOT_UNITS = "or and to plus minus times over by sqrt pi x y z n k t i e a b c d p q r u v w versus vs not but if"
UNIT = rf"(?:(?:\s|-)?(?!(?:{NOT_UNITS.replace(' ', '|')})\b)[a-zA-Z'\"]+\.?(?:\^?\{{?[23]\}}?)?(?:\s?/\s?[a-zA-Z]+)?){{0,4}}"
QUANTITY = re.compile(rf"(?:[A-Z]{{2,3}} |Rs\.? ?)?(?P<sign>[+-]?)\s?(?:{VALUE})\s?(?P<percent>%|percent\b)?(?P<unit>{UNIT})", re.A)
FAST = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.A)


def simplify(text: str) -> str:
  """Typography and LaTeX to plain text, so that `\\$5,\\!500`, `5 500` and `\\dfrac38` become numbers. Meaning is kept."""
  text = text.translate(TYPOGRAPHY)
  for pattern, to in SIMPLIFY:
    text = pattern.sub(to, text)
  return text.strip()


class Number(NamedTuple):
  value: Fraction
  exact: bool  # written as an integer or a fraction
  percent: bool
  cents: bool = False


def read_number(text: str) -> Number | None:
  """The one number that `text` is, sign, grouping, fraction, unit and all; None for words, lists and expressions."""
  if FAST.fullmatch(text):
    return Number(Fraction(text), "." not in text, False)
  if len(text) > MAX_VALUE:
    return None
  text = simplify(text).strip(" .,;:!?*\"'=_\n")
  if text.startswith("(") and text.endswith(")"):
    text = text[1:-1].strip()
  if text.lower() in WORDS:
    return Number(WORDS[text.lower()], True, False)
  match = QUANTITY.fullmatch(text)
  return to_number(match) if match else None


def to_number(match: re.Match) -> Number | None:
  """The number of a QUANTITY match; None where it is no number after all (division by zero, 1e999)."""
  try:
    if match["number"]:
      value = to_fraction(match["number"])
    else:
      value = to_fraction(match["top"]) / to_fraction(match["bottom"])
      value += Fraction(match["whole"]) if match["whole"] else 0
  except (ValueError, ZeroDivisionError):
    return None
  unit = match["unit"].split()
  value *= MAGNITUDES.get(unit[0].lower(), 1) if unit else 1
  written = match["number"] or match["top"] + match["bottom"]
  return Number(-value if match["sign"] == "-" else value, not set(".eE*") & set(written), bool(match["percent"]),
                bool(unit) and unit[0].lower() in ("cent", "cents"))


def to_fraction(digits: str) -> Fraction:
  mantissa, _, power = digits.replace(",", "").replace(" ", "").replace("*10^", "e").strip("{}").partition("e")
  if len(mantissa) > 200:
    raise ValueError("too long for a number")
  return Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(power.strip("{}") or 0)


# Where a final answer is announced; the last announcement that is followed by something counts.
MARK = re.compile(r"\\?(?:boxed|fbox)\s*\{|####|<answer>|\banswer\s*(?:\w+\s+)?(?:is|was|are|=|:)+\s*:?|^\s*A\s*:", re.I | re.M)
SENTENCE_END = re.compile(r"(?<=[.!?])[\s$]+(?=[A-Z\\$(\"'])")
ASIDE = re.compile(r",?\s+(?:which|because|since|where|so that|as|if|when)\b|\s\(", re.I)
COPULA = re.compile(r"(?:\b(?:is|are|was|were|be|equals?|gets?|costs?|makes|totals?|of exactly)|=)\s+(?:[a-z]+\s+){0,3}?(?=[-+]?[\d.])", re.I)
TOKEN = re.compile(rf"(?<![\w.\\/^{{}}])(?<!\d,)(?P<sign>[+-]?)(?:{VALUE})(?!\d|[_^\\√(]|(?![mgslLhVWJKN]\b|[a-zA-Z]{{2,}})[a-zA-Z]"
                   r"|\s?[*/^]\s?[\w\\(])\s?(?P<percent>%|percent\b)?(?P<unit>)", re.A)
JOINER = re.compile(r"\s*(?:[$%]|[a-zA-Z]+\s)?\s*(?:,|;|/|\bor\b|\band\b|\bto\b|\bversus\b|\bmaybe\b|\bpossibly\b)[\s,$]*(?:\bor\b|\band\b)?[\s$]*", re.I)
EXPRESSION = re.compile(r"\\[a-zA-Z]+|[\^√*/+(){}<>]|\d\s*[a-z]\b|\bi\b")


def stated_answer(text: str) -> str | None:
  """The final value that a text states, as written: the last announcement (\\boxed, ####, "the answer is"), else the last line
  that holds a value, and there the value of the main clause. None where two different values are offered ("56 or 63").

  It always yields one reading, so a response that lists many values cannot match many truths.
  """
  text = re.sub(r"<<[^<>\n]*>>", "", text[-MAX_READ:])
  marks = list(MARK.finditer(text))
  for n, mark in reversed(list(enumerate(marks))):
    end = marks[n + 1].start() if n + 1 < len(marks) and "{" not in mark.group() else len(text)
    rest = braced(text, mark.end()) if "{" in mark.group() else text[mark.end():end].split("</answer", 1)[0]
    rest = rest.strip().split("\n", 1)[0] if "{" not in mark.group() else rest
    if not says_something(rest):
      continue
    if "{" in mark.group() and n and "{" in marks[n - 1].group():  # \boxed{56} or \boxed{63}
      before, start = braced(text, marks[n - 1].end()), marks[n - 1].end()
      between = text[start + len(before) + 1:mark.start()]
      if re.fullmatch(r"[\s$,.;]*(?:or|and|,)[\s$]*", between) and before != rest:
        return None
    return stated_in_line(rest)
  lines = [line for line in text.split("\n") if re.search(r"\d|\\frac|\\sqrt", line)] or text.strip().split("\n")[-1:]
  return stated_in_line(lines[-1])


def braced(text: str, start: int) -> str:
  """What a brace that opened just before `start` holds; to the end where it is never closed."""
  depth = 1
  for i in range(start, min(len(text), start + MAX_VALUE)):
    depth += (text[i] == "{") - (text[i] == "}")
    if depth == 0:
      return text[start:i]
  return text[start:start + MAX_VALUE]


def stated_in_line(line: str) -> str | None:
  """The value that one line states; a line that is a bare value or expression is its own answer."""
  if len(line) <= MAX_VALUE and read_number(line) is not None:
    return line
  plain = simplify(line).rstrip(" .,;:!?\\")
  sentences = [s for s in SENTENCE_END.split(plain) if re.search(r"\d|\\sqrt|\\pi", s)]
  if not sentences:
    return plain
  sentence = sentences[-1].rstrip(" .,;:!?")
  words = re.findall(r"(?<!\\)\b[a-zA-Z]{2,}", sentence)
  if "=" in sentence:
    tail = sentence.rsplit("=", 1)[1].strip()
    if offers_two(sentence):
      return None
    if tail and read_number(tail) is None and words:
      token = TOKEN.match(tail)
      return None if token and joined(tail, token) else token.group() if token and not EXPRESSION.match(tail[token.end():].strip()[:1]) else tail
    return tail or None
  if not words or read_number(sentence) is not None:
    return sentence
  return value_of_clause(sentence)


def value_of_clause(sentence: str) -> str | None:
  """The value of a sentence's main clause: what follows its verb ("there are 9 multiples of 10"), else its first number."""
  if offers_two(sentence):
    return None
  clause = sentence
  for aside in ASIDE.finditer(sentence):
    if re.search(r"\d", sentence[:aside.start()]):
      clause = sentence[:aside.start()]
      break
  verbs = list(COPULA.finditer(clause))
  start = (verbs[0] if re.match(r"(?:\w+,?\s+)?there\b", clause, re.I) else verbs[-1]).end() if verbs else 0
  token = TOKEN.search(clause, start)
  if token is None or verbs and token.start() > start:
    tail = clause[start:] if verbs else clause
    math = re.search(r"[-\d\\(][^a-z]*(?:\\[a-z]+|[^a-z])*$", tail)
    return math.group().strip() if math else clause
  return None if joined(clause, token) else token.group()


def offers_two(sentence: str) -> bool:
  """Two different values joined by "or"."""
  for match in re.finditer(r"\bor\b", sentence):
    before = list(TOKEN.finditer(sentence[:match.start()]))
    after = TOKEN.search(sentence, match.end())
    if before and after and to_number(before[-1]) != to_number(after):
      a, b = to_number(before[-1]), to_number(after)
      if a is None or b is None or a.value != b.value:
        return True
  return False


def joined(text: str, token: re.Match) -> bool:
  """Is the value one of a list: is it followed by another, different one?"""
  joiner = JOINER.match(text, token.end()) or re.compile(r"\s+").match(text, token.end())
  other = TOKEN.match(text, joiner.end()) if joiner else None
  if not other:
    return False
  a, b = to_number(token), to_number(other)
  return a is None or b is None or a.value != b.value


def math_correct(answer: str, truth: str) -> bool:
  """Does the answer, or the whole response, state the true final value? Exact, but for decimals of the same value to 1e-6."""
  truth = final_truth(truth)
  if FAST.fullmatch(answer) and FAST.fullmatch(truth):
    return answer == truth or same_number(read_number(answer), read_number(truth))
  stated = stated_answer(answer)
  if stated is None or not says_something(stated) or len(stated) > MAX_VALUE:
    items = simplify(answer) if "," in truth and len(answer) <= MAX_VALUE else ""
    return bool(items) and same_items(items, simplify(truth))
  return same_value(stated, truth)


@functools.lru_cache(maxsize=65536)
def final_truth(truth: str) -> str:
  """The reference's final value: after "####" in a GSM8K solution, else all of it."""
  return truth.rsplit("####", 1)[-1].strip()


@functools.lru_cache(maxsize=65536)
def same_value(stated: str, truth: str) -> bool:
  left, right = read_number(stated), read_number(truth)
  if left and right:
    if left.cents and "$" in truth:
      left = left._replace(value=left.value / 100, exact=False)
    return same_number(left, right)
  plain, wanted = simplify(stated).strip(" .,;:="), simplify(truth).strip(" .,;:=")
  if re.sub(r"[\s{}]|degrees", "", plain) == re.sub(r"[\s{}]|degrees", "", wanted):
    return True
  if right is None and (":" in wanted or "," in wanted):
    return same_items(plain, wanted)
  if left and not re.search(r"[\\^(√]|[*/+]\s*\d", wanted):  # a number for what is none
    return False
  if not EXPRESSION.search(plain + wanted) or right and UNEVALUATED.fullmatch(plain):
    return False
  plain, wanted = (TRAILING_WORDS.sub("", re.sub(r"(\d)\s?degrees", r"\1", p)) for p in (plain, wanted))
  return equivalent(plain.rsplit("=", 1)[-1] if "=" not in wanted else plain, wanted)


# An answer that leaves its arithmetic to the reader ("3 * 4" for 12) is not the number asked for.
UNEVALUATED = re.compile(r"[\s\d.,()]*[\d)]\s*[-+*/^][-+*/^\s\d.,(){}]*")
TRAILING_WORDS = re.compile(r"(?<=[\d})\s])(?:\s+[a-zA-Z]{2,}\.?)+$")


def same_number(a: Number, b: Number) -> bool:
  """`a` the answer, `b` the truth. A percentage p% is p/100, and also p where the truth is a bare number of at least 1, since
  GSM8K asks "what percent" and keeps 25; a bare p answers a truth of p%.
  """
  values = [(a.value, b.value)]
  if a.percent != b.percent:
    values = [(a.value / 100, b.value), (a.value, b.value)] if a.percent else [(a.value, b.value / 100), (a.value, b.value)]
    if a.percent and abs(b.value) < 1 and b.value:
      values = values[:1]
  if a.exact and b.exact:
    return any(x == y for x, y in values)
  return any(abs(x - y) <= min(Fraction(1, 10**6), abs(y) / 500_000) for x, y in values)


def same_items(plain: str, wanted: str) -> bool:
  """Lists, tuples and ratios: the same values in the same order; {sets} in any order."""
  separator = ":" if ":" in wanted else ","
  left, right = ([i.strip() for i in p.strip("(){}[]\\ .").split(separator)] for p in (plain, wanted))
  if wanted.startswith(("{", "\\{")):
    left, right = sorted(left), sorted(right)
  if separator == ":" and "/" in plain:
    left = [i.strip() for i in plain.split("/")]
  return len(left) == len(right) > 1 and all(l == r or bool((a := read_number(l)) and (b := read_number(r)) and same_number(a, b))
                                             for l, r in zip(left, right))


class EquivalenceWorker:
  """math-verify in a process of its own that can be killed: some expressions hang sympy or exhaust memory.

  Started on first use with no preexec_fn, so that nothing is forked under JAX. The worker sets an alarm for itself
  before each job, so that it ends even where this process has died.
  """

  def __init__(self, limit_seconds: float = 2.0):
    self.limit, self.process, self.lock = limit_seconds, None, threading.Lock()

  def start(self):
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--equivalence_worker"]
    self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                                    start_new_session=True)
    if self.read_line(60.0) != "ready":
      self.stop()
      raise OSError("the math-verify process did not start; is math-verify installed? (pip install -r requirements.txt)")

  def read_line(self, seconds: float) -> str:
    """One line, or "" when the worker ended or the time is up."""
    ready, _, _ = select.select([self.process.stdout], [], [], seconds)
    return self.process.stdout.readline().decode().strip() if ready else ""

  def stop(self):
    if self.process:
      self.process.kill()
      self.process.wait()
      self.process.stdin.close()
      self.process.stdout.close()
      self.process = None

  def ask(self, answer: str, truth: str) -> bool:
    with self.lock:
      if self.process is None:
        self.start()
      try:
        self.process.stdin.write(json.dumps([self.limit, answer, truth]).encode() + b"\n")
        verdict = self.read_line(self.limit + 1.0)
      except OSError:
        verdict = ""
      if verdict not in ("True", "False"):
        COUNTS["math_over_limit"] += 1
        self.stop()
      return verdict == "True"


WORKER = EquivalenceWorker()
atexit.register(WORKER.stop)


def equivalent(answer: str, truth: str) -> bool:
  """Symbolic equality by math-verify; False where it cannot tell within its limit."""
  return WORKER.ask(answer, truth)


def equivalence_worker():
  """The worker's side: a line [seconds, answer, truth] in, True or False out."""
  resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
  import logging

  from math_verify import LatexExtractionConfig, parse, verify
  logging.disable(logging.CRITICAL)  # it warns that its own alarms are off; the limit here is the process
  config = [LatexExtractionConfig()]
  read = functools.partial(parse, extraction_config=config, parsing_timeout=None)
  verify(read("$\\frac{1}{2}$"), read("$0.5$"), timeout_seconds=None)  # imports what it imports late
  sys.stdout.write("ready\n")
  sys.stdout.flush()
  for line in sys.stdin:
    seconds, answer, truth = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # the default action of SIGALRM ends the process, C call or not
    left, right = read(f"${answer}$"), read(f"${truth}$")
    verdict = bool(left and right and verify(right, left, timeout_seconds=None))
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.write(f"{verdict}\n")
    sys.stdout.flush()


# --------------------------------------------------------------------------------- checking: science, logic, code, batches
ARTICLES = {"a", "an", "the"}
LEAD_IN = re.compile(r"(?:(?:so|thus|therefore|hence)\W+)?(?:the\s+)?(?:(?:final|correct|right|best)\s+)?(?:answer|option|choice)"
                     r"(?:\s+(?:is|would be))?\s*:?\s+(?=\S)|it(?:\s+is|'s)\s+", re.I)
LETTER = re.compile(r"(?:option\s+|choice\s+)?[(\[]?\s*([A-Za-z]|[1-9])\s*[)\].:]*(?:\s*[-:.)]\s*|\s+|$)(.*)", re.I | re.S)


def normalize(text: str) -> str:
  """Lower-case words without punctuation, accents' variants and articles; enough for "The Mitochondria." = "mitochondria"."""
  text = unicodedata.normalize("NFKC", text).casefold()
  text = re.sub(r"(?<=\w)['’](?=\w)", "", text)
  return " ".join(w for w in re.findall(r"\w+|[+%=<>]|-(?=\d)", text) if w not in ARTICLES)


def science_correct(answer: str, truth: str, metadata: dict) -> bool:
  """The truth as text, or its option's letter or text where the choices are known; a letter with another option's text is wrong."""
  answer = simplify_tags(answer)[-MAX_READ:]
  answer = LEAD_IN.sub("", answer.strip(" \n*_\"'`"), count=1) if LEAD_IN.match(answer.strip(" \n*_\"'`")) else answer
  options = [normalize(o) for o in option_texts(metadata)]
  said, wanted = normalize(answer), normalize(truth)
  if not options:
    return bool(said) and (said == wanted or same_quantity(answer, truth))
  right = option_index(truth, options, metadata)
  if right is None:
    return said == wanted
  chosen = option_index(answer, options, metadata)
  return chosen is not None and options[chosen] == options[right] and (chosen == right or options[chosen] == said)


def simplify_tags(answer: str) -> str:
  """A whole response given in place of its answer is read at its answer."""
  return extract_answer(answer) or answer if "<answer>" in answer else answer


def same_quantity(answer: str, truth: str) -> bool:
  a, b = read_number(answer), read_number(truth)
  return bool(a and b and normalize(answer).split()[1:] == normalize(truth).split()[1:] and same_number(a, b))


def option_texts(metadata: dict) -> list[str]:
  """metadata["choices"]: a list of texts, of {"label", "text"}, or ARC's {"text": [...], "label": [...]}."""
  choices = metadata.get("choices") or []
  choices = choices.get("text", []) if isinstance(choices, dict) else choices
  return [str(c.get("text", "") if isinstance(c, dict) else c) for c in choices]


def option_labels(metadata: dict, count: int) -> list[str]:
  choices = metadata.get("choices") or []
  labels = choices.get("label", []) if isinstance(choices, dict) else [c.get("label") for c in choices if isinstance(c, dict)]
  labels = [str(l).casefold() for l in labels if l]
  return labels if len(labels) == count else list("abcdefghijklmnopqrstuvwxyz"[:count])


def option_index(text: str, options: list[str], metadata: dict) -> int | None:
  """The option that `text` names by its text or letter; None for neither, for several, and for a letter and a text that differ."""
  said = normalize(text)
  if said in options:
    return options.index(said)
  match = LETTER.fullmatch(text.strip(" \n*_\"'`"))
  labels = option_labels(metadata, len(options))
  if not match or match[1].casefold() not in labels:
    return None
  index, rest = labels.index(match[1].casefold()), normalize(match[2])
  return index if not rest or rest == options[index] else None


def logic_correct(answer: str, truth: str) -> bool:
  """The stated yes or no, as a word ("no" does not stand in "know"); both or neither is wrong, and so is "not true"."""
  said, wanted = stated_verdict(simplify_tags(answer)[-MAX_READ:]), stated_verdict(str(truth))
  return said is not None and said == wanted


def stated_verdict(text: str) -> bool | None:
  words = re.findall(r"[a-z']+", text.lower())
  if any(w in ("not", "isn't", "never") and v in ("true", "false", "yes", "no") for w, v in zip(words, words[1:])):
    return None
  found = {w in ("yes", "true") for w in words if w in ("yes", "no", "true", "false")}
  return found.pop() if len(found) == 1 else None


COUNTS = collections.Counter()
BOX = None
BOX_LOCK = threading.Lock()


def failed_rows(reset: bool = False) -> dict[str, int]:
  """What went wrong and was scored 0 or by a fallback since the last reset: bad rows, limits hit, judge failures."""
  counts = dict(COUNTS)
  if reset:
    COUNTS.clear()
  return counts


def code_box():
  """The one sandbox of this process, started on first use and closed at exit."""
  global BOX
  with BOX_LOCK:
    if BOX is None:
      import sandbox
      box = sandbox.Sandbox()
      box.__enter__()
      atexit.register(box.__exit__, None, None, None)
      BOX = box
  return BOX


def is_correct(domain: str, answer: str, truth: str, metadata: dict | None = None) -> bool:
  """Is `answer` (a final answer, a sentence, or a whole response) right? `truth` is the row's answer; for coding the reference
  code, with metadata's test_cases, test_setup_code. Raises ValueError for a domain without right answers.
  """
  metadata = metadata or {}
  if domain == "math":
    return math_correct(answer, truth)
  if domain == "science":
    return science_correct(answer, truth, metadata)
  if domain == "logic":
    return logic_correct(answer, truth)
  if domain == "coding":
    return code_shares([answer], [truth], [metadata])[0] == 1.0
  raise ValueError(f"domain {domain!r} has no right answers; those that have: {', '.join(VERIFIABLE_DOMAINS)}")


def code_shares(answers, truths, metadatas) -> list[float]:
  """Share of tests that each answer's code passes; one sandbox call, so the answers run side by side. No tests: 0."""
  jobs = [{"code": answer, "tests": list(meta["test_cases"]), "setup": meta.get("test_setup_code") or "", "reference": truth or ""}
          if meta.get("test_cases") else None for answer, truth, meta in zip(answers, truths, metadatas)]
  verdicts = iter(code_box().run([j for j in jobs if j])) if any(jobs) else iter(())
  shares = []
  for job in jobs:
    verdict = next(verdicts) if job else None
    results = verdict.results if verdict else []
    shares.append(1.0 if verdict and verdict.passed else min(0.99, sum(map(bool, results)) / max(1, len(job["tests"]))) if job else 0.0)
  return shares


def is_correct_batch(domains, answers, truths, metadatas=None, code_rewards: str = "on") -> list[bool]:
  """`is_correct` for lists, all code in one sandbox call. A row that cannot be checked is False and counted, never an error."""
  return [g == 1.0 for g in grade(domains, answers, truths, metadatas, code_rewards)]


NEAR = ((Fraction(1, 10), 1 / 6), (Fraction(1, 5), 1 / 12))  # within 10% and 20%: 0.5 and 0.25 of 3, as Tunix's GSM8K recipe


def grade(domains, answers, truths, metadatas=None, code_rewards: str = "on") -> list[float]:
  """Partial credit in [0, 1] per row: 1 only for a right answer. Math: near numbers a little. Science: a right answer in a few
  more words half. Coding: half the share of tests passed. None as an answer, and a domain without right answers: 0.
  """
  metadatas = metadatas or [None] * len(answers)
  grades = [0.0] * len(answers)
  code = [i for i, (d, a) in enumerate(zip(domains, answers)) if d == "coding" and a is not None]
  for i, (domain, answer, truth, metadata) in enumerate(zip(domains, answers, truths, metadatas)):
    if answer is None or domain not in VERIFIABLE_DOMAINS or domain == "coding":
      continue
    try:
      grades[i] = 1.0 if is_correct(domain, answer, str(truth), metadata) else near_credit(domain, answer, str(truth), metadata or {})
    except Exception as error:  # model text must not end a run of hours, whatever it found; the row is counted
      COUNTS[f"failed_{type(error).__name__}"] += 1
  if code and code_rewards != "off":
    shares = code_shares([answers[i] for i in code], [truths[i] for i in code], [metadatas[i] or {} for i in code])
    for i, share in zip(code, shares):
      grades[i] = 1.0 if share == 1.0 else 0.5 * share
  return grades


def near_credit(domain: str, answer: str, truth: str, metadata: dict) -> float:
  if domain == "math":
    stated, right = stated_answer(answer), read_number(final_truth(truth))
    number = read_number(stated) if stated else None
    if number and right and right.value:
      off = abs(number.value - right.value) / abs(right.value)
      return next((credit for limit, credit in NEAR if off <= limit), 0.0)
  if domain == "science" and not metadata.get("choices"):
    said, wanted = normalize(answer).split(), normalize(truth).split()
    n = len(wanted)
    if n and n < len(said) <= 3 * n + 3 and any(said[i:i + n] == wanted for i in range(len(said) - n + 1)):
      return 0.5
  return 0.0


# ------------------------------------------------------------------------------------------------- heuristics of a text
MAX_WORDS = 5000  # words of a text that the heuristics look at
# The seed's list (000), made of three-letter words; words of up to three letters never count as keywords anyway.
FUNCTION_WORDS = frozenset(
    "a about after all also am an and any are as at be because been before but by can could did do does for from had has have he "
    "her him his how i if in into is it its just me more my no not now of on one or our out she should so some than that the "
    "their them then there these they this to too up us was we were what when where which while who will with would you your".split())
ARTICLE_BREAKS = FUNCTION_WORDS - {"one", "more", "same", "other", "no", "not", "all"}


def words_of(text: str) -> list[str]:
  return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())[:MAX_WORDS]


def length_score(text: str, target: int, shortest: int, longest: int) -> float:
  """1 inside [shortest, longest] words, falling to 0 at 0 and at longest + target words. Range [0, 1]. Seed 000."""
  n = len(text.split())
  if n < shortest:
    return n / shortest
  return max(0.0, 1.0 - max(0, n - longest) / target)


def prose_score(text: str) -> float:
  """How far a text is put together like language rather than a salad of words. Range [0, 1].

  Three cheap signs: a fifth or more of its words are function words, an article is followed by something it can stand before,
  and three-word phrases are not repeated. Honest text scores about 1, shuffled or listed keywords near 0.
  """
  words = words_of(text)
  if len(words) < 5:
    return min(1.0, len(words) / 5)
  share = sum(w in FUNCTION_WORDS for w in words) / len(words)
  articles = [n for n, w in enumerate(words) if w in ARTICLES]
  kept = sum(n + 1 < len(words) and words[n + 1] not in ARTICLE_BREAKS for n in articles) / len(articles) if articles else 1.0
  triples = list(zip(words, words[1:], words[2:]))
  fresh = len(set(triples)) / len(triples)
  return min(1.0, share / 0.2) * max(0.0, 2.0 * kept - 1.0) * fresh


def diversity_score(text: str, formula: str = "corrected") -> float:
  """Lexical variety of a text. Range [0, 1].

  "seed" is seed 000's unique/total, which is 1 for any one-word answer and falls with length for everybody. The default divides
  by the vocabulary expected at that length (Heaps' law, 2.2 n^0.75, about that of English stories), trusts no text below the
  seed's own minimum of 10 words, and discounts what is not put together like language.
  """
  if formula == "seed":
    words = text.lower().split()
    return len(set(words)) / len(words) if words else 0.0
  words = words_of(text)
  if not words:
    return 0.0
  expected = min(len(words), 2.2 * len(words) ** 0.75)
  return min(1.0, len(set(words)) / expected) * min(1.0, len(words) / 10) * prose_score(text)


def relevance_score(question: str, reasoning: str, formula: str = "guarded") -> float:
  """Share of the question's keywords that the reasoning takes up. Range [0, 1]; 0.5 where the question has no keyword (seed 000).

  "seed" pays a copied question in full. The default wants words of its own beside the question's, in language-like order.
  It reads the question alone: the seed read the whole prompt, whose fixed instructions then counted as keywords.
  """
  asked = {w for w in question.lower().split() if len(w) > 3} if formula == "seed" else {w for w in words_of(question) if len(w) > 3}
  used = {w for w in reasoning.lower().split() if len(w) > 3} if formula == "seed" else {w for w in words_of(reasoning) if len(w) > 3}
  asked, used = asked - FUNCTION_WORDS, used - FUNCTION_WORDS
  overlap = len(asked & used) / len(asked) if asked else 0.5
  if formula == "seed":
    return overlap
  own = len(used - asked) / max(1, len(used))
  return overlap * min(1.0, own / 0.4) * prose_score(reasoning)


CONNECTIVES = re.compile(r"\b(?:because|since|therefore|thus|hence|so|then|next|first|second|third|finally|however|but|if|when"
                         r"|which means|as a result|this means|now|after that)\b", re.I)
STEPS = re.compile(r"^[ \t]*(?:step\s*\d+|\d{1,2}[.)]|[-*•])|\b(?:first|second|third|next|then|finally)\b", re.I | re.M)


def coherence_score(reasoning: str) -> float:
  """Step markers 0.4, connectives 0.3, flow 0.3. Range [0, 1]. Seed 004 names the parts; their sizes are ours.

  Different markers and connectives count, not their number, and all of it by how far the text reads like language, so that
  "Step 1 therefore Step 2 therefore" earns little. Flow: sentences of 3 to 40 words.
  """
  steps = len({m.group().strip().lower() for m in itertools.islice(STEPS.finditer(reasoning), 200)})
  links = len({m.group().lower() for m in itertools.islice(CONNECTIVES.finditer(reasoning), 500)})
  sentences = [len(s.split()) for s in re.split(r"[.!?\n]+", reasoning) if s.strip()]
  flow = sum(3 <= n <= 40 for n in sentences) / len(sentences) if sentences else 0.0
  return (0.4 * min(1.0, steps / 3) + 0.3 * min(1.0, links / 3) + 0.3 * flow) * reads_well(reasoning)


def reads_well(reasoning: str) -> float:
  """`prose_score` for reasoning, where numbers and formulas take the place of function words. Range [0, 1]."""
  words = words_of(reasoning)
  numbers = sum(w[0].isdigit() for w in words)
  triples = list(zip(words, words[1:], words[2:]))
  fresh = len(set(triples)) / len(triples) if triples else 1.0
  return max(prose_score(reasoning), min(1.0, 2.0 * numbers / max(1, len(words))) * fresh)


def depth_score(reasoning: str) -> float:
  """Depth of reasoning: different words and numbers, full at 40. Range [0, 1]."""
  return min(1.0, len(set(words_of(reasoning))) / 40) * reads_well(reasoning)


# ---------------------------------------------------------------------------------------------------- the reward systems
SYSTEMS = ("multi_domain", "curriculum", "dual_stream", "four_component")
DOMAIN_SCALE = {"math": 1.0, "coding": 1.2, "science": 0.8, "logic": 0.7}  # seed 003
WEIGHTS = {"format": 0.25, "coherence": 0.20, "correctness": 0.55, "efficiency": 0.0}  # seed 004


class Row(NamedTuple):
  """One completion with what is known about its prompt."""
  text: str
  question: str
  domain: str
  answer: str
  metadata: dict


def rows_of(prompts, completions, columns) -> list[Row | None]:
  """The batch as rows; None (scored 0, counted) for one whose columns cannot be read."""
  n = len(completions)
  column = lambda name, default: columns[name] if columns.get(name) is not None else [default] * n
  rows = []
  for text, prompt, question, domain, answer, metadata in zip(
      completions, prompts, column("question", None), column("domain", ""), column("answer", ""), column("metadata", "{}")):
    try:
      metadata = json.loads(metadata or "{}") if isinstance(metadata, (str, bytes)) or metadata is None else metadata
      if not isinstance(text, str) or not isinstance(metadata, dict):
        raise TypeError("completion or metadata")
      rows.append(Row(text, str(prompt if question is None else question), str(domain), "" if answer is None else str(answer), metadata))
    except (TypeError, ValueError) as error:
      COUNTS[f"failed_{type(error).__name__}"] += 1
      rows.append(None)
  return rows


def each(score):
  """A reward function from one that scores a Row. A row that fails scores 0 and is counted: it never fails the batch."""
  def reward(prompts, completions, **columns):
    values = []
    for row in rows_of(prompts, completions, columns):
      try:
        values.append(float(score(row)) if row else 0.0)
      except Exception as error:  # as in grade()
        COUNTS[f"failed_{type(error).__name__}"] += 1
        values.append(0.0)
    return values
  return reward


def graded(read, code_rewards: str):
  """Partial credit of each row's answer as `read(text)` finds it; one sandbox call for the batch."""
  def grades(rows):
    answers = [read(row.text) if row else None for row in rows]
    fill = [row or Row("", "", "", "", {}) for row in rows]
    return grade([r.domain for r in fill], answers, [r.answer for r in fill], [r.metadata for r in fill], code_rewards)
  return grades


def named(function, name: str, low: float, high: float):
  """Gives a reward function the name and range that metrics and the trainer show."""
  function.__name__ = function.__qualname__ = name
  function.range = (low, high)
  return function


def make_rewards(system: str, *, style: str = "", diversity: str = "corrected", relevance: str = "guarded", code_rewards: str = "on",
                 progress=None, phase=None, judge=None, format_weight: float = WEIGHTS["format"],
                 coherence_weight: float = WEIGHTS["coherence"], correctness_weight: float = WEIGHTS["correctness"],
                 efficiency_weight: float = WEIGHTS["efficiency"]) -> list:
  """The reward functions of a system, f(prompts, completions, **columns) -> list[float]; the reward is their sum.

  Columns, one entry per completion: domain, question, answer, metadata (JSON text); others are ignored. Each function has
  `__name__`, its metric's name, and `range` (low, high), which every value keeps, whatever the text.
  style: of the responses; empty: dual_stream's own for that system, else tags. code_rewards: "off" runs no code and pays none.
  progress: callable, the fraction of the run that is done (curriculum); phase: callable, 0, 1 or 2, in its place.
  judge: callable on [{"question", "response", "domain"}] giving verdicts (see `judge`), for the creative domains' quality.
  """
  style = style or ("dual_stream" if system == "dual_stream" else "tags")
  for name, value, valid in (("rewards", system, SYSTEMS), ("style", style, STYLES), ("diversity", diversity, ("corrected", "seed")),
                             ("relevance", relevance, ("guarded", "seed")), ("code_rewards", code_rewards, ("on", "off"))):
    if value not in valid:
      raise InputError(f"{name}={value!r} is unknown; valid: {', '.join(valid)}")
  if system == "multi_domain":
    return multi_domain(style, diversity, relevance, code_rewards, judge)
  if system == "curriculum":
    return curriculum(style, code_rewards, RewardRouter(progress, phase))
  if system == "dual_stream":
    return dual_stream(style, code_rewards)
  weights = {"format": format_weight, "coherence": coherence_weight, "correctness": correctness_weight, "efficiency": efficiency_weight}
  return four_component(style, diversity, relevance, code_rewards, judge, weights)


def advantage_scale(system: str, domains) -> list[float]:
  """Factor on each completion's advantage. Seed 003 scales the reward by domain, but GRPO divides each prompt's group by its
  standard deviation, which cancels any factor that the group shares; on the advantage the scale acts as meant.
  """
  return [DOMAIN_SCALE.get(d, 1.0) if system == "curriculum" else 1.0 for d in domains]


def quality(row: Row, response: Response, diversity: str, relevance: str) -> tuple[float, float, float]:
  """Length [0, 0.3], diversity [0, 0.25], relevance [0, 0.25] of a creative response, with seed 000's constants."""
  return (0.15 * length_score(response.reasoning, 250, 20, 500) + 0.15 * length_score(response.answer, 150, 10, 300),
          0.25 * diversity_score(response.answer, diversity), 0.25 * relevance_score(row.question, response.reasoning, relevance))


def multi_domain(style, diversity, relevance, code_rewards, judge) -> list:
  """Seeds 000 and 001: 0 without the exact format; 0.2 with it, and 0.8 for a right answer or up to 0.8 for quality. Sum [0, 1]."""
  parse = functools.partial(parse_response, style=style)
  read = lambda text: r.answer if (r := parse(text)) else None
  grades = graded(read, code_rewards)

  def correctness(prompts, completions, **columns):
    return [0.8 * (g == 1.0) for g in grades(rows_of(prompts, completions, columns))]

  def part(index):
    def score(row):
      response = parse(row.text)
      if response is None or row.domain in VERIFIABLE_DOMAINS:
        return 0.0
      return quality(row, response, diversity, relevance)[index]
    return each(score)

  shared = [named(each(lambda row: 0.2 * (parse(row.text) is not None)), "format", 0.0, 0.2),
            named(correctness, "correctness", 0.0, 0.8)]
  return shared + [named(part(0), "length", 0.0, 0.3), named(part(1), "diversity", 0.0, 0.25), named(part(2), "relevance", 0.0, 0.25)]


class RewardRouter(NamedTuple):
  """Which of the curriculum's components count now (seed 003). The phase is a pure function of the trainer's own step, asked
  for at every call, so a resumed run is in the phase it left. Without either callable: the last phase, everything on.
  """
  progress: Callable[[], float] | None = None  # fraction of the run, 0 to 1
  phase: Callable[[], int] | None = None  # 0, 1 or 2; wins over progress

  def current(self) -> int:
    """0 format (to 25% of the run), 1 and correctness (to 75%), 2 and brevity."""
    if self.phase is not None:
      return min(2, max(0, int(self.phase())))
    done = 1.0 if self.progress is None else self.progress()
    return 0 if done < 0.25 else 1 if done < 0.75 else 2

  def route(self, reward, name: str, since: int, low: float, high: float):
    """`reward` from phase `since` on, 0 before it."""
    def routed(prompts, completions, **columns):
      return reward(prompts, completions, **columns) if self.current() >= since else [0.0] * len(completions)
    return named(routed, name, low, high)


REFUSAL = re.compile(r"\bI(?:'m| am) (?:sorry|unable|not able)|\bI (?:can(?:not|'t|’t| not)|won't|will not) (?:help|assist|answer|provide|do that|comply)"
                     r"|\bas an AI\b", re.I)
RAMBLING = re.compile(r"\b(?:wait|hmm+|let me (?:think|check|try) again|actually, (?:no|wait)|as I said|in other words|to be honest"
                      r"|on second thought|I hope this helps|let me know if)\b", re.I)


def curriculum(style, code_rewards, router: RewardRouter) -> list:
  """Seed 003, which gives names, phases and scales but no sizes; those are Tunix's GSM8K recipe (3, ±0.5 a tag, 3/0.5/0.25)."""
  parse = functools.partial(parse_response, style=style)
  read = lambda text: r.answer if (r := parse(text)) else extract_answer(text)
  grades = graded(read, code_rewards)

  def check_answer(prompts, completions, **columns):
    return [3.0 * g for g in grades(rows_of(prompts, completions, columns))]

  def punish_refusal(row):
    answer = extract_answer(row.text)
    refused = REFUSAL.search(answer if answer is not None else row.text[:MAX_READ])
    return -3.0 if answer is None and not says_something(row.text) or refused or "<answer>" in row.text and answer is None else 0.0

  def approximately(row):
    return sum(0.5 if row.text.count(tag) == 1 else -0.5 for tag in TAGS)

  def rambling(row):
    n, after = len(row.text.split()), row.text.rpartition(TAGS[3])
    over = min(1.0, max(0, n - 300) / 300)
    found = len(list(itertools.islice(RAMBLING.finditer(row.text), 4)))
    return -over - (1.0 if after[1] and after[2].strip(OUTER) else 0.0) - 0.25 * found

  return [router.route(each(punish_refusal), "punish_refusal", 0, -3.0, 0.0),
          router.route(each(lambda row: 3.0 * (parse(row.text) is not None)), "match_format_exactly", 0, 0.0, 3.0),
          router.route(each(approximately), "match_format_approximately", 0, -2.0, 2.0),
          router.route(check_answer, "check_answer", 1, 0.0, 3.0),
          router.route(each(rambling), "penalize_length_and_rambling", 2, -3.0, 0.0)]


def dual_stream(style, code_rewards) -> list:
  """Seed 002 (DSA-CAST). Its reward cell is not in the seed, so the sizes are ours: accuracy outweighs all structure."""
  exact = lambda text: parse_response(text, style)
  read = lambda text: r.answer if (r := exact(text)) else extract_answer(text)
  grades = graded(read, code_rewards)

  def soft(row):
    tags = sum(0.125 if row.text.count(tag) == 1 else -0.125 for tag in TAGS)
    found = re.findall(rf"^[ \t]*({'|'.join(SECTIONS)}):", row.text, flags=re.M)[:64]
    headings = sum(0.0625 if found.count(s) == 1 else -0.0625 if found.count(s) else 0.0 for s in SECTIONS)
    return tags + headings + (0.25 if tuple(found) == SECTIONS else 0.0)

  def cast(prompts, completions, **columns):
    rows = rows_of(prompts, completions, columns)
    return [3.0 * g + (completeness(row.text, style) if row else 0.0) for g, row in zip(grades(rows), rows)]

  return [named(each(lambda row: 1.0 * (exact(row.text) is not None)), "reward_format_exact", 0.0, 1.0),
          named(each(soft), "reward_format_soft", -0.75, 1.0),
          named(cast, "reward_cast_math_and_completeness", 0.0, 4.0)]


def completeness(text: str, style: str) -> float:
  """0.75 for non-trivial sections (or reasoning), 0.25 for the exact format. Range [0, 1]."""
  response = parse_response(text, style)
  if response is None:
    return 0.0
  bodies = read_sections(response.reasoning) or {"reasoning": response.reasoning}
  said = [min(1.0, len(set(words_of(body))) / 5) for body in bodies.values()]
  return 0.25 + 0.75 * sum(said) / len(said)


def four_component(style, diversity, relevance, code_rewards, judge, weights: dict) -> list:
  """Seed 004: weighted sum of format, coherence, correctness and efficiency, each in [0, 1]. Sum [0, 1]."""
  if abs(sum(weights.values()) - 1.0) > 1e-6 or min(weights.values()) < 0.0:
    raise InputError(f"the four weights are {list(weights.values())} with sum {sum(weights.values()):g}; expected none below 0 and sum 1")
  parse = functools.partial(parse_response, style=style)
  read = lambda text: r.answer if (r := parse(text)) else extract_answer(text)
  grades = graded(read, code_rewards)

  def form(row):
    return 1.0 if parse(row.text) else 0.1 * sum(row.text.count(tag) == 1 for tag in TAGS)

  def correctness(prompts, completions, **columns):
    rows = rows_of(prompts, completions, columns)
    return [weights["correctness"] * correct_and_deep(row, g, parse, diversity, relevance) if row else 0.0
            for g, row in zip(grades(rows), rows)]

  component = lambda score, name: named(each(lambda row: weights[name] * score(row)), name, 0.0, weights[name])
  return [component(form, "format"), component(lambda row: coherence_score(reasoning_of(row.text, parse)), "coherence"),
          named(correctness, "correctness", 0.0, weights["correctness"]),
          component(lambda row: length_score(row.text, 300, 20, 300), "efficiency")]


def reasoning_of(text: str, parse) -> str:
  response = parse(text)
  return response.reasoning if response else ""


def correct_and_deep(row: Row, grade_: float, parse, diversity: str, relevance: str) -> float:
  """0.8 answer, 0.2 depth of reasoning, halved where the answer is wrong: length alone must not pay. Range [0, 1]."""
  response = parse(row.text)
  if row.domain in VERIFIABLE_DOMAINS or response is None:
    depth = depth_score(response.reasoning) if response else 0.0
    return 0.8 * grade_ + 0.2 * depth * (1.0 if grade_ == 1.0 else 0.5)
  return min(1.0, sum(quality(row, response, diversity, relevance)) / 0.8)


# ------------------------------------------------------------------------------------------------------ command line
FLAGS = flags.FlagValues()
flags.DEFINE_bool("equivalence_worker", False, "Serve math-verify on stdin and stdout; started by this module itself.", flag_values=FLAGS)


def main():
  if FLAGS.equivalence_worker:
    return equivalence_worker()


if __name__ == "__main__":
  import rewards  # this file under its own name: one InputError, one sandbox, whoever imports it

  rewards.launch(rewards.main, rewards.FLAGS, __doc__)
