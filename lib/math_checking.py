r"""Is a mathematical answer right? What it states (lib/statements.py) against the true value.

`math_correct` reads both; `same_value` compares, in this order: the same text, two numbers
(`same_number`), two numerals of a base, two lists (`same_items`), and last two expressions, for
which math-verify is asked (lib/equivalence.py). Comparison is exact; only a decimal may be off by
its rounding, at most 1e-6.
"""

import functools
import re
from fractions import Fraction

from lib import contract, equivalence, measures, quantities, remarks, statements
from lib.statements import MAX_VALUE, stated_answer

__all__ = ["final_truth", "math_correct", "same_number", "same_value", "stated_answer"]

MAX_ITEMS = 12  # of a list that may stand in any order
DECIMAL_TOLERANCE = Fraction(1, 10**6)

# A text with one of these may be an expression; others are compared as text only.
EXPRESSION = re.compile(r"\\[a-zA-Z]+|[\^√*/+(){}<>=|!]|\d\s*[a-z]\b|\b[a-z]\s*[-+]|^[a-z]$|\bi\b")
FUNCTION_OF_DEGREES = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)\b")
UNIT_BEHIND = re.compile(r"(?<=[\d})\s])(?:\s+[a-zA-Z]{2,}\.?)+$")
# "4210_{7}", "1011_2"
BASED = re.compile(r"\(?(?P<digits>[0-9A-Fa-f]+)\)?\s*_\s*\{?\s*(?P<base>\d+)\s*\}?")
INTERVAL_END = re.compile(r"[\[\]]")
ASSIGNED = re.compile(
  r"(?P<name>(?:\\[a-zA-Z]+|[a-zA-Z]\w{0,3})(?:_\{?\w\}?)?|[a-zA-Z]\([a-zA-Z]\))"
  r"\s*=\s*(?P<value>[^=]+)"
)
# "x \in [2, 3]", "x in [2, 3]", "(x, y) = (3, 4)"
MEMBER = re.compile(r"\s*[a-zA-Z]\s*\\?\bin\b\s*|\([a-z](?:,\s*[a-z])+\)\s*=\s*")
# "On Monday", "at 3:45", "in the year 2020", "the point (3, 4)", "The train leaves at 3:45",
# "It was a Monday", "There is no solution"
PLACED = re.compile(
  r"(?:(?:[a-z'’-]+\s+){1,8}?(?=(?:is|was|are|were|be|at|on|in)\s))?"
  r"(?:(?:(?:on|at|is|was|are|were|be|it['’]s|in(?:\s+the\s+year)?)\s+(?:an?\s+)?)+"
  r"|the\s+(?:year|point|(?:ordered\s+)?pair|set|interval|ratio)\s+)",
  re.I,
)
YEAR = re.compile(r"\b(?:in|year)\s+$", re.I)
# "The day before is Friday"
ANOTHER_DAY = re.compile(
  r"\b(?:before|after|until|since|next|previous|opposite|tomorrow|yesterday)\b", re.I
)
TIME = re.compile(
  r"(?P<hour>[012]?\d)(?:[:.](?P<minute>[0-5]\d))?(?:\s*(?P<half>[ap])\.?\s?m)?", re.I
)
# "2 hours and 30 minutes", "5 ft 6 in"
PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\.?")
PARTS = re.compile(rf"{PART.pattern}(?:(?:\s*,)?(?:\s+and)?\s+{PART.pattern})+")
# One thing under several names, without their spaces
ALIKE = {
  r"\varnothing": r"\emptyset",
  r"\{\}": r"\emptyset",
  "theemptyset": r"\emptyset",
  "emptyset": r"\emptyset",
  "nosolution": r"\emptyset",
  "nosolutions": r"\emptyset",
  "allrealnumbers": r"\mathbbR",
  "allreals": r"\mathbbR",
  r"(-\infty,\infty)": r"\mathbbR",
  "infinitelymanysolutions": "infinitelymany",
}
MONTH = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
MONTH_AND_DAY = re.compile(
  rf"(?P<month>{MONTH})[a-z]*\.?\s+(?P<day>\d\d?)(?:st|nd|rd|th)?(?:,?\s+(?P<year>\d{{4}}))?", re.I
)
DAY_AND_MONTH = re.compile(
  rf"(?:the\s+)?(?P<day>\d\d?)(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{MONTH})[a-z]*\.?"
  r"(?:,?\s+(?P<year>\d{4}))?",
  re.I,
)
OPERATOR_LEFT = re.compile(r"[-+*/^=]\s*$|^\s*[*/^]")


def math_correct(answer: str, truth: str) -> bool:
  """Does the answer, or the whole response, state the true final value?"""
  truth = final_truth(truth)
  # Most pairs are two plain numerals, "72" and "72.0": no need to look for sentences.
  if quantities.PLAIN_NUMERAL.fullmatch(answer) and quantities.PLAIN_NUMERAL.fullmatch(truth):
    return answer == truth or same_number(
      quantities.read_number(answer), quantities.read_number(truth)
    )
  if not contract.says_something(answer) or not contract.says_something(truth):
    return False
  # A truth may itself be words ("even") or a sentence, which states no number.
  if is_short(answer, truth) and same_wording(answer, truth):
    return True
  statement = statements.final_statement(answer)
  if not statements.holds(statement):
    return False
  if is_short(statement.text, truth) and same_wording(statement.text, truth):
    return True
  stated = statements.value_of(statement)
  if stated is None or len(stated) > MAX_VALUE or not contract.says_something(stated):
    return False
  return same_value(stated, truth)


def is_short(answer: str, truth: str) -> bool:
  """May the answer be the truth itself? Markup makes it longer; a whole response is no truth."""
  return len(answer) <= min(MAX_VALUE, 4 * len(truth) + 60)


def final_truth(truth: str) -> str:
  """The reference's final value: after "####" in a GSM8K solution, else all of it."""
  return truth.rpartition("####")[2].strip()


@functools.lru_cache(maxsize=1024)
def plain_text(text: str) -> str:
  r"""Simplified, without what carries no meaning: "x^{2} + 1" → "x^2+1", "EAST" → "east".

  Spaces between digits stay ("7 2" is no 72), and braces around more than one character do
  ("\frac{a}{bc}" is no "\frac{ab}{c}").
  """
  # "**EAST**." → "EAST"; a single letter keeps its case, for x and X may differ.
  text = quantities.simplify(text).strip(" .,;:$*\"'`").removesuffix("\\")
  if re.fullmatch(r"[a-zA-Z ]{2,}", text):
    text = text.lower()
  text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
  text = re.sub(r"\{(\w)\}", r"\1", text)
  return ALIKE.get(text, text)


def same_text(answer: str, truth: str) -> bool:
  """The same but for LaTeX's and typography's ways to write it: every truth is equal to itself."""
  plain = plain_text(answer)
  # "1, 2, …" names more than "1, 2" does.
  same = plain == plain_text(truth) != ""
  return same and remarks.goes_on(answer) == remarks.goes_on(truth)


def same_wording(answer: str, truth: str) -> bool:
  """Is a short answer the truth but for how it is put: "on July 4th", "It is Monday"?"""
  if same_text(answer, truth):
    return True
  is_number = bool(quantities.PLAIN_NUMERAL.fullmatch(truth))
  placed = PLACED.match(answer)
  # A number has a reading of its own; but a year may be said as in "in 2020".
  if is_number and not (re.fullmatch(r"[12]\d{3}", truth) and placed and YEAR.search(placed[0])):
    return False
  if placed:
    if statements.TURNED.search(placed[0]) or ANOTHER_DAY.search(placed[0]):
      return False
    answer = answer[placed.end() :]
    if same_text(answer, truth):
      return True
  said, wanted = read_time(answer), read_time(truth)
  if said and wanted:
    return same_time(said, wanted)
  readings = [(read(answer), read(truth)) for read in (read_date, read_parts)]
  return any(said and said == wanted for said, wanted in readings)


def read_date(text: str) -> tuple[str, int, str | None] | None:
  """(month, day, year) of "July 4, 1776", "the 4th of July" and the like."""
  text = quantities.simplify(text).strip(" .")
  found = MONTH_AND_DAY.fullmatch(text) or DAY_AND_MONTH.fullmatch(text)
  return (found["month"].lower(), int(found["day"]), found["year"]) if found else None


def read_time(text: str) -> tuple[int, int, str | None] | None:
  """(hour below 12, minute, "a" or "p" or None) of "3:45 p.m.", "15:45", "3 PM"."""
  found = TIME.fullmatch(quantities.simplify(text).strip(" ."))
  if not found or not (found["minute"] or found["half"]):
    return None
  if "." in text and ":" not in text and not found["half"]:
    return None  # "3.45" is a number
  hour, half = int(found["hour"]), (found["half"] or "").lower()
  return hour % 12, int(found["minute"] or 0), half or ("p" if hour > 12 else None)


def same_time(said: tuple, wanted: tuple) -> bool:
  """The same hour and minute, and the same half of the day where both name it."""
  return said[:2] == wanted[:2] and (None in (said[2], wanted[2]) or said[2] == wanted[2])


def read_parts(text: str) -> list[tuple[str, str]] | None:
  """[("2", "h"), ("30", "min")] of "2 hours and 30 minutes"; None for less than two parts."""
  text = quantities.simplify(text).strip(" .")
  if not PARTS.fullmatch(text):
    return None
  return [(number, measures.measure(unit) or unit) for number, unit in PART.findall(text)]


@functools.lru_cache(maxsize=65536)
def same_value(stated: str, truth: str) -> bool:
  """Is the value `stated` the true one? Both as written, units and all."""
  if max(len(stated), len(truth)) > MAX_VALUE:
    return stated == truth
  if same_text(stated, truth):
    return True
  said, time = read_time(stated), read_time(truth)
  if said and time:
    return same_time(said, time)
  left, right = quantities.read_number(stated), quantities.read_number(truth)
  if left and right:
    if left.cents and "$" in truth:  # "106 cents" for "$1.06"
      left = left._replace(value=left.value / 100, exact=False)
    elif right.cents and "$" in stated:
      right = right._replace(value=right.value / 100, exact=False)
    # "5 m" for "5 cm"; and a bare 25, but not "25 seconds", answers a truth of 25%.
    elif left.other_measure(right) or (right.percent and not left.percent and left.unit):
      return False
    return same_number(left, right)
  plain, wanted = plain_value(stated), plain_value(truth)
  # "11_2" must not be read as the number 11, nor as an expression with an index.
  based = same_in_base(plain, wanted)
  if based is not None:
    return based
  member = MEMBER.match(plain)
  # "x \in [2, 3]" says the interval [2, 3].
  if member and (brackets(wanted) or is_list(wanted) or r"\mathbb" in wanted):
    return same_value(plain[member.end() :], wanted)
  if " or " in plain and r"\cup" in wanted:  # "x < 2 or x > 5"
    return same_set(re.split(r"\s+or\s+", plain), re.split(r"\s*\\cup\s*", wanted))
  if brackets(wanted) and statements.RELATION.search(plain):  # "-2 < x < 7" for "(-2, 7)"
    return not right and equivalence.WORKER.ask(plain, wanted)
  # A number such as "1,234" holds a comma too, but is no list.
  if not right and is_list(wanted):
    return same_items(plain, wanted)
  items = split_items(plain)
  if len(items) > 1:  # "71 or 72" and "5 ± 1" are no 72; "3/8 or 0.375" is 3/8, said twice
    return " or " in plain and all(same_value(item, wanted) for item in items)
  return same_expression(plain, wanted)


def plain_value(text: str) -> str:
  return quantities.simplify(text).strip(" .,;:").removeprefix("=").strip()


def same_number(answer: quantities.Number, truth: quantities.Number) -> bool:
  """Equal, with percentages read as people mean them.

  p% is p/100, and also p where the truth is a bare number of at least 1, since GSM8K asks "what
  percent" and keeps 25; a bare p answers a truth of p%.
  """
  # Each pair is one reading of the percent signs; one equal pair is enough.
  pairs = [(answer.value, truth.value)]
  if answer.percent and not truth.percent:
    pairs = [(answer.value / 100, truth.value)]
    if truth.value == 0 or abs(truth.value) >= 1:
      # "25%" for a truth of 25
      pairs.append((answer.value, truth.value))
  elif truth.percent and not answer.percent:
    # "25" for a truth of 25%
    pairs.append((answer.value, truth.value / 100))
  # "1/3" is no 0.333333, but a truth of 0.333333 was rounded from something.
  if answer.exact and truth.exact:
    return any(x == y for x, y in pairs)
  return any(abs(x - y) <= min(DECIMAL_TOLERANCE, abs(y) / 500_000) for x, y in pairs)


def same_in_base(plain: str, wanted: str) -> bool | None:
  """Numerals with their base, "4210_{7}" and "4210_5"; None where neither has one.

  An answer without the base is right where the truth has it, since the question asked for it.
  """
  answer, truth = BASED.fullmatch(plain), BASED.fullmatch(wanted)
  if not truth:
    return False if answer and re.fullmatch(r"\w+", wanted) else None
  if not answer:
    # "4210" for "4210_{5}"
    return plain == truth["digits"]
  same_digits = answer["digits"].lower() == truth["digits"].lower()
  return same_digits and answer["base"] == truth["base"]


# ---- lists, tuples, sets, ratios, intervals ----


def is_list(wanted: str) -> bool:
  """A truth of several values: "1, 2", "(3, 4)", "{1, 2}", "3:4", "12 and 13", "3 ± √2"."""
  return bool(re.search(r"[:,]|\b(?:and|or)\b|\\pm|\\mp", wanted))


def brackets(text: str) -> str:
  """The kind of bracket around a list: "()", "[)", "{}" …, "" for none."""
  text = text.replace("\\{", "{").replace("\\}", "}")
  return text[0] + text[-1] if text and text[0] in "([{" and text[-1] in ")]}" else ""


def split_items(text: str) -> list[str]:
  r"""The values between commas, "and" and "or" outside brackets; "3 \pm a" is two of them."""
  text = text.replace("\\{", "{").replace("\\}", "}").strip()
  if brackets(text) and closes_at_end(text):
    # "{1, 2}" → "1, 2"
    text = text[1:-1]
  items, depth, current = [], 0, ""
  for piece in re.split(r"([(\[{]|[)\]}]|,|;|\band\b|\bor\b)", text):
    if piece in (",", ";", "and", "or") and depth == 0:
      items.append(current)
      current = ""
      continue
    # Commas within brackets belong to an item: "(1, 2), (3, 4)" has two.
    depth += (piece in tuple("([{")) - (piece in tuple(")]}"))
    current += piece
  items.append(current)
  values = [item.strip() for item in items if item.strip()]
  return [one for item in values for one in both_signs(item)]


def closes_at_end(text: str) -> bool:
  """Is the first bracket closed by the last character? "(1, 2), (3, 4)" is a list of two."""
  depth = 0
  for index, character in enumerate(text):
    depth += (character in "([{") - (character in ")]}")
    if depth == 0:
      return index == len(text) - 1
  return False


def both_signs(item: str) -> list[str]:
  r"""["a \pm b"] → ["a + b", "a - b"]."""
  if len(re.findall(r"\\pm|\\mp", item)) != 1:
    return [item]
  sign = re.compile(r"\\(?:pm|mp)\s*")
  plus, minus = sign.sub("+", item), sign.sub("-", item)
  return [plus.removeprefix("+").replace("=+", "="), minus]


def same_items(plain: str, wanted: str) -> bool:
  """Lists: the same values, in the same order where the order says something.

  (3, 4) and [3, 4) are kept apart, and need their brackets: "0, 1" is no "(0, 1]". A truth of
  bare values is a set of solutions and takes any order, unless it is a sequence of three and more
  that does not ascend (a ranking); a tuple, an interval and a ratio have an order.
  """
  # A ratio: "3:4", also as "3/4"
  if ":" in wanted:
    return same_sequence(re.split(r"[:/]", plain), wanted.split(":"))
  # A pair of brackets counts only where it encloses all: "(1, 2), (3, 4)" has none.
  kind = brackets(wanted) if closes_at_end(wanted.replace("\\", "")) else ""
  said = brackets(plain) if closes_at_end(plain.replace("\\", "")) else ""
  left, right = split_items(plain), split_items(wanted)
  if len(left) != len(right) or not left:
    return len(right) == 1 and same_expression(plain, wanted)
  if len(right) == 1:
    return same_expression(plain, wanted)
  names, wanted_names = assigned_names(left), assigned_names(right)
  left, right = [without_name(item) for item in left], [without_name(item) for item in right]
  named = len(set(names)) == len(names) and None not in names  # "x = 3, y = 4"
  # Sets, and bare lists of solutions.
  if kind in ("", "{}"):
    if said not in ("", "{}") and not (said == "[]" and len(left) > 2):  # "[1, 2, 3]" in Python
      return False
    if named and sorted(names) == sorted(map(str, wanted_names)):
      # "y = 4, x = 3" for "x = 3, y = 4"
      left = [left[names.index(name)] for name in wanted_names]
      return same_sequence(left, right)
    if (named and names != [names[0]] * len(names)) or (kind == "" and is_ranking(right)):
      return same_sequence(left, right)
    return same_set(left, right)
  # "x = 3, y = 4" names the places of (3, 4), so it needs no brackets.
  if said != kind and not (kind == "()" and said == "" and named):
    return False
  if named and are_neighbours(names):
    left = [left[names.index(name)] for name in sorted(names)]  # "y = 4, x = 3" for (3, 4)
  return same_sequence(left, right)


def are_neighbours(names: list[str]) -> bool:
  """Do letters stand side by side in the alphabet, as x, y, z and a, b do? They have an order."""
  codes = sorted(ord(name) if len(name) == 1 else 0 for name in names)
  return codes[0] > 0 and codes[-1] - codes[0] == len(codes) - 1


def assigned_names(items: list[str]) -> list[str | None]:
  """["x = 2", "3"] → ["x", None]."""
  found = [ASSIGNED.fullmatch(item) for item in items]
  return [match["name"] if match else None for match in found]


def without_name(item: str) -> str:
  match = ASSIGNED.fullmatch(item)
  return match["value"].strip() if match else item


def is_ranking(items: list[str]) -> bool:
  """Three numbers and more that do not ascend were put into their order for a reason."""
  numbers = [quantities.read_number(item) for item in items]
  if len(items) < 3 or None in numbers:
    return False
  values = [number.value for number in numbers]
  return values != sorted(values)


def same_sequence(left: list[str], right: list[str]) -> bool:
  return len(left) == len(right) > 1 and all(
    same_value(x.strip(), y.strip()) for x, y in zip(left, right, strict=True)
  )


def same_set(left: list[str], right: list[str]) -> bool:
  """Each value of the one is one of the other, and no two of them the same one."""
  if len(left) > MAX_ITEMS:
    # Comparing every pair would ask math-verify too often.
    return sorted(left) == sorted(right)
  missing = list(right)
  for item in left:
    # Each true value is used up once: "2, 2" is no "2, 3".
    match = next((other for other in missing if same_value(item, other)), None)
    if match is None:
      return False
    missing.remove(match)
  return not missing


# ---- expressions ----


def same_expression(plain: str, wanted: str) -> bool:
  """Asks math-verify where both can be expressions and the answer has been worked out."""
  truth = quantities.read_number(wanted)
  if truth and statements.UNEVALUATED.fullmatch(plain):
    return False  # "3 * 4" for 12
  if statements.RELATION.search(plain) and not statements.RELATION.search(wanted):
    return False  # "> 72" for 72
  if quantities.read_number(plain) and not re.search(r"[\\^(√=!]|[*/+-]\s*\d", wanted):
    return False  # a number for what is none
  if OPERATOR_LEFT.search(plain) or not EXPRESSION.search(plain + " " + wanted):
    return False
  plain, wanted = for_math_verify(plain), for_math_verify(wanted)
  # "x = 3/8" for 3/8: the last side is the value.
  if "=" not in wanted:
    if "=" in plain and not statements.assigns([side.strip() for side in plain.split("=")]):
      return False  # "2x = 72" for 72
    plain = plain.rsplit("=", 1)[-1]
  elif "=" not in plain:
    assigned = ASSIGNED.fullmatch(wanted)
    if not assigned:
      return False  # an equation is asked for
    return same_value(plain, assigned["value"])
  return equivalence.WORKER.ask(plain, wanted)


def for_math_verify(text: str) -> str:
  """Degrees and trailing units away; within a function degrees become radians."""
  if FUNCTION_OF_DEGREES.search(text):
    # "\sin 20 degrees" → "\sin (\frac{20\pi}{180})"
    text = re.sub(r"(\d+(?:\.\d+)?)\s?degrees", r"(\\frac{\1\\pi}{180})", text)
  text = re.sub(r"(?<![\w.^)}])(\d+) (\d+)/(\d+)(?=\s+[\\a-zA-Z(])", r"(\1+\\frac{\2}{\3}) ", text)
  # "\frac{1}{2}\sqrt{3}" was simplified to "1/2 \sqrt{3}", and that is no 1/(2\sqrt{3}).
  text = re.sub(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)(?=\s+[\\a-zA-Z(])", r"\\frac{\1}{\2}", text)
  # Elsewhere the sign is a unit like others: "75 degrees" → "75".
  text = re.sub(r"(\d|\})\s?degrees", r"\1", text)
  return UNIT_BEHIND.sub("", text)
