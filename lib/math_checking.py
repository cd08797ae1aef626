"""TODO-DOC math_checking."""

import functools
import itertools
import re
from fractions import Fraction

from lib import contract, equivalence, quantities

MAX_VALUE = 300  # characters of one value; longer is no final answer


# ------------------------------------------------------------------------------------- mathematics: find the value stated
# MARK: where a final answer is announced. The last announcement that is followed by something counts.
MARK = re.compile(
  r"\\?(?:boxed|fbox)\s*\{|####|<answer>"
  r"|\banswer(?:\s+\w+)?\s*(?:\b(?:is|was|be)\b|[=:])\s*:?|^\s*A\s*:",
  re.I | re.M,
)
OTHER_BOX = re.compile(
  r"(?:boxed|fbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}[\s$,.;]*(?:or|and|,)[\s$\\]*$"
)  # before \boxed{63}
SENTENCE_END = re.compile(r"(?<=[.!?])[\s$]+(?=[A-Z\\$(\"'])")
VALUE_SIGN = re.compile(r"\d|\\(?:sqrt|frac|pi)")
WORD = re.compile(r"(?<!\\)\b[a-zA-Z]{2,}")
# Where a sentence turns to its conclusion, to reasons and to asides; the verbs whose number is the one asked for.
CONCLUSION = re.compile(
  r"[,;:]?\s+(?:so|thus|therefore|hence|giving|which (?:gives|means|is|rounds (?:up |down )?to))\b,?\s+"
  r"(?!that\b)",
  re.I,
)
BECAUSE = re.compile(r",?\s+because\b", re.I)
ASIDE = re.compile(r",?\s+(?:which|because|since|where|so that|as|if|when)\b|\s\(", re.I)
PLACE = r"(?:between|among|from|for|in|on|at|by|with|under|per|than|after|before|about how|not|of(?! exactly))\b"
VERB = re.compile(
  r"(?:(?<!\bto )\b(?:is|are|was|were|be|equals?|costs?|makes?|made|totals?|total of|ha[sd]|have|needs?|gets?|"
  r"got|pays?|paid|spends?|spent|earns?|earned|takes?|gives?|saves?|saved|sold|leaving|leaves))\s+"
  rf"(?:(?:equal to|a total of|(?!{PLACE})[a-z]+)\s+){{0,3}}?(?=[-+]?\.?\d)",
  re.I,
)
THERE = re.compile(r"\bthere\s+(?:is|are|will be|must be|would be)\s", re.I)
# TOKEN: a number inside a sentence, no part of an expression, time or name. LISTED, OFFERED: what joins a second one to it.
TOKEN = re.compile(
  rf"(?<![\w.\\/^{{}}])(?<!\d[,:])(?P<sign>[+-]?)(?:{quantities.VALUE})"
  r"(?!\d|[_^\\√(]|:(?!00)\d|(?![mgslLhVWJKN]\b|[a-zA-Z]{2,})[a-zA-Z]"
  rf"|\s?[*/^]\s?[\w\\(]|\s?\\[a-zA-Z]){quantities.PERCENT}(?P<unit>)",
  re.A,
)
MAYBE = r"(?:(?:or|and|maybe|possibly|perhaps|also|else)\s+)*"
LISTED = re.compile(
  rf"\s*(?:[a-zA-Z]+\b\s*)?(?:[,;/]|\b(?:or|and|to|but|versus)\b)[\s,]*{MAYBE}"
  rf"|\s*(?:(?!{PLACE}|more|less)[a-zA-Z]+\s+)?",
  re.I,
)
OFFERED = re.compile(rf"\s*(?:[a-zA-Z]+\s*){{0,2}}\bor\s+{MAYBE}(?:[a-zA-Z]\s*=\s*)?")
MATH_RUN = re.compile(
  r"(?:\\[a-zA-Z]+|[-\d\s.:+*/^(){}\[\]=]|(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z]))+"
)
GOES_ON = re.compile(r"\s*(?:[+=<>±]|-\s?[\d(\\])")  # an expression, no number yet
# An answer that leaves its arithmetic to the reader ("3 * 4" for 12) is not the number asked for.
UNEVALUATED = re.compile(r"[\s\d.,()]*[\d)]\s*[-+*/^][-+*/^\s\d.,(){}]*")
EXPRESSION = re.compile(r"\\[a-zA-Z]+|[\^√*/+(){}<>]|\d\s*[a-z]\b|\bi\b")
TRAILING_WORDS = re.compile(r"(?<=[\d})\s])(?:\s+[a-zA-Z]{2,}\.?)+$")


def stated_answer(text: str) -> str | None:
  """The final value that a text states, as written: the last announcement (\\boxed, ####, "the answer is"), else the last line
  that holds a value. None for two different ones ("56 or 63"): a response that lists many values cannot match many truths.
  """
  text = re.sub(r"<<[^<>\n]*>>", "", text[-contract.MAX_READ :])
  end = len(text)
  for mark in reversed(list(MARK.finditer(text))):
    box = mark.group().endswith("{")
    stated = (
      braced(text[mark.end() :])
      if box
      else text[mark.end() : end].split("</answer", 1)[0].strip().split("\n", 1)[0]
    )
    if contract.says_something(stated):
      other = OTHER_BOX.search(text[: mark.start()]) if box else None
      return None if other and other[1] != stated else value_of_line(stated)
    end = mark.start()
  lines = text.strip().split("\n")
  return value_of_line(
    next((line for line in reversed(lines) if re.search(r"\d|\\frac|\\sqrt", line)), lines[-1])
  )


def braced(text: str) -> str:
  """What stands before the brace that closes one opened just before `text`; all of it where it is never closed."""
  text = text[:MAX_VALUE]
  depths = itertools.accumulate(((c == "{") - (c == "}") for c in text), initial=1)
  return text[: next((i - 1 for i, depth in enumerate(depths) if depth == 0), MAX_VALUE)]


def value_of_line(line: str) -> str | None:
  """The value that one line states. A bare value is its own answer; else it is looked for in the last sentence, there in its
  conclusion, there in the main clause: the last side of an equation, what follows the verb, or the first number.
  """
  if len(line) <= MAX_VALUE and (
    quantities.read_number(line) is not None or re.search(r"\\begin\{(?:\w?matrix|cases)", line)
  ):
    return line
  plain = quantities.simplify(line).rstrip(" .,;:!?\\")
  last = lambda pieces: next((p for p in reversed(pieces) if VALUE_SIGN.search(p)), "")
  clause = last(CONCLUSION.split(last(SENTENCE_END.split(plain)))).rstrip(" .,;:!?")
  if (
    not clause
    or "=" not in clause
    and (not WORD.search(clause) or quantities.read_number(clause) is not None)
  ):
    return clause or plain
  if any(rival(clause, token, OFFERED) for token in TOKEN.finditer(clause)):
    return None
  asides = (BECAUSE if "=" in clause else ASIDE).finditer(clause)
  clause = clause[
    : next((a.start() for a in asides if VALUE_SIGN.search(clause[: a.start()])), None)
  ]
  start, open_end = None, False
  if "=" in clause:
    side = last_side(clause)
    if not WORD.search(clause) or quantities.read_number(side) is not None:
      return side
    clause, start, open_end = side, 0, not clause.endswith(side)
  elif verbs := list(THERE.finditer(clause)) or list(VERB.finditer(clause)):
    start = verbs[-1].end()
  token = TOKEN.search(clause) if start is None else TOKEN.match(clause, start)
  if token is None or GOES_ON.match(clause, token.end()):  # no plain number: the first expression
    runs = [
      m.group() for m in MATH_RUN.finditer(clause, start or 0) if VALUE_SIGN.search(m.group())
    ]
    return runs[0].strip(" .,:=") if runs and not open_end else clause
  negated = re.search(r"\bnot\s$", clause[: token.start()], re.I)
  return None if negated or rival(clause, token, LISTED) else token.group()


def last_side(equation: str) -> str:
  """The last side that is a value: in "20 = A" and "7 = 4 + 3" the first."""
  sides = [side.strip() for side in equation.split("=")]
  is_value = lambda side: (
    VALUE_SIGN.search(side)
    and (quantities.read_number(side) is not None or not UNEVALUATED.fullmatch(side))
  )
  return next((side for side in reversed(sides) if is_value(side)), sides[0])


def rival(text: str, token: re.Match, joiner: re.Pattern) -> bool:
  """Does a joiner and then a different value follow? The same one put another way ("1/5 or 20%") is none."""
  gap = joiner.match(text, token.end())
  other = TOKEN.match(text, gap.end()) if gap else None
  if not other or joiner is OFFERED and re.match(r"\s*[-+*/=]", text[other.end() :]):
    return False
  a, b = quantities.to_number(token), quantities.to_number(other)
  return not (a and b and (same_number(a, b) or same_number(b, a)))


# -------------------------------------------------------------------------------------------------- mathematics: compare
def math_correct(answer: str, truth: str) -> bool:
  """Does the answer, or the whole response, state the true final value? Exact, but for decimals of the same value to 1e-6."""
  truth = final_truth(truth)
  if quantities.FAST.fullmatch(answer) and quantities.FAST.fullmatch(truth):
    return answer == truth or same_number(
      quantities.read_number(answer), quantities.read_number(truth)
    )
  stated = stated_answer(answer)
  if (
    stated is not None
    and contract.says_something(stated)
    and len(stated) <= MAX_VALUE
    and same_value(stated, truth)
  ):
    return True
  listed = (
    "," in truth and quantities.read_number(truth) is None and len(answer) <= MAX_VALUE
  )  # "x = 2, y = 3" states two on purpose
  return listed and same_items(quantities.simplify(answer), quantities.simplify(truth))


def final_truth(truth: str) -> str:
  """The reference's final value: after "####" in a GSM8K solution, else all of it."""
  return truth.rpartition("####")[2].strip()


@functools.lru_cache(maxsize=65536)
def same_value(stated: str, truth: str) -> bool:
  if max(len(stated), len(truth)) > MAX_VALUE:
    return stated == truth
  left, right = quantities.read_number(stated), quantities.read_number(truth)
  if left and right:
    if left.cents and "$" in truth:
      left = left._replace(value=left.value / 100, exact=False)
    return same_number(left, right)
  plain, wanted = (quantities.simplify(text).strip(" .,;:=") for text in (stated, truth))
  bare = lambda text: re.sub(
    r"[\s{}]|degrees", "", text.lower() if re.fullmatch(r"[a-zA-Z ]{2,}", text) else text
  )
  if bare(plain) == bare(wanted):
    return True
  if right is None and re.search("[:,]", wanted):
    return same_items(plain, wanted)
  if left and not re.search(r"[\\^(√]|[*/+]\s*\d", wanted):  # a number for what is none
    return False
  if not EXPRESSION.search(plain + wanted) or right and UNEVALUATED.fullmatch(plain):
    return False
  plain, wanted = (
    TRAILING_WORDS.sub("", re.sub(r"(\d)\s?degrees", r"\1", text)) for text in (plain, wanted)
  )
  return equivalence.WORKER.ask(plain if "=" in wanted else plain.rsplit("=", 1)[-1], wanted)


def same_number(a: quantities.Number, b: quantities.Number) -> bool:
  """`a` the answer, `b` the truth. A percentage p% is p/100, and also p where the truth is a bare number of at least 1, since
  GSM8K asks "what percent" and keeps 25; a bare p answers a truth of p%.
  """
  pairs = [(a.value, b.value)]
  if a.percent and not b.percent:
    pairs = [(a.value / 100, b.value)] + pairs * (b.value == 0 or abs(b.value) >= 1)
  elif b.percent and not a.percent:
    pairs.append((a.value, b.value / 100))
  if a.exact and b.exact:
    return any(x == y for x, y in pairs)
  return any(abs(x - y) <= min(Fraction(1, 10**6), abs(y) / 500_000) for x, y in pairs)


def same_items(plain: str, wanted: str) -> bool:
  """Lists, tuples and ratios: the same values in the same order; {sets} in any order."""
  if (
    plain[:1] in "([" and wanted[:1] in "([" and plain[:1] + plain[-1:] != wanted[:1] + wanted[-1:]
  ):
    return False  # [2, 3] is no (2, 3)
  separator = (
    r"[:/]"
    if ":" in wanted and "/" in plain
    else ":"
    if ":" in wanted
    else r",(?:\s*and\b)?|\band\b"
  )
  split = lambda text: re.split(separator, text.strip("(){}[]\\ ."))
  items = lambda text: [re.sub(r"^[a-z]\s*=", "", item.strip()).strip() for item in split(text)]
  left, right = items(plain), items(wanted)
  if wanted.startswith(("{", "\\{")):
    left, right = sorted(left), sorted(right)
  same = lambda l, r: (
    l == r
    or bool(
      (a := quantities.read_number(l)) and (b := quantities.read_number(r)) and same_number(a, b)
    )
  )
  return len(left) == len(right) > 1 and all(map(same, left, right))
