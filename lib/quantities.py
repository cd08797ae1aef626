"""TODO-DOC quantities."""

import functools
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

# ------------------------------------------------------------------------------------------ mathematics: normalise the text
# simplify (typography and LaTeX to plain text) → stated_answer (the one value that a text states) → read_number → same_value,
# which asks math-verify where the two are no numbers.
TYPOGRAPHY = str.maketrans(
  {
    **dict.fromkeys("−–‒﹣－", "-"),
    **dict.fromkeys("×·⋅", "*"),
    **dict.fromkeys("÷⁄∕", "/"),
    "π": r"\pi ",
    "％": "%",
    "≈": "=",
    "º": "°",
    **dict.fromkeys("\u00a0\u2007\u2009\u202f\u2002\u2003\u2005\u2006\u200a\t€£¥₹₽¢$", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **{c: str(d) for d, c in enumerate("０１２３４５６７８９")},
    **{c: f"^{d}" for d, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{c: " " + unicodedata.normalize("NFKC", c).replace("⁄", "/") for c in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"},
  }
)
SIMPLIFY = [
  (re.compile(pattern), to)
  for pattern, to in [
    (r"<<[^<>]*>>", ""),  # GSM8K's calculator marks
    (r"</?[a-zA-Z][^<>]{0,60}>", " "),  # stray HTML and tags
    (r"\\!|\\(?:left|right|displaystyle|limits)(?![a-z])|\{\}", ""),
    (r"(?<!\\)\\[,;:> ()\[\]$%]", lambda m: "%" if m.group() == "\\%" else " "),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°", " degrees "),
    (
      r"\\(?:text(?:bf|it|rm|sf|tt)?|mathrm|mathbf|boldsymbol|mbox|operatorname|boxed|fbox)\s*\{([^{}]*)\}",
      r" \1 ",
    ),
    (r"\*\*([^*\n]+)\*\*", r" \1 "),  # Markdown bold
    (r"\{,\}", ","),
    (r"\\[dtc]frac", r"\\frac"),
    (
      r"\\frac\s*(?:\{\s*(-?[\d.]+)\s*\}|(\d))\s*(?:\{\s*([\d.]+)\s*\}|(\d))",
      lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ",
    ),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?))", lambda m: rf"\sqrt{{{m[1] or m[2]}}}"),
    (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\(?:times|cdot|ast)(?![a-z])", "*"),
    (r"\\div(?![a-z])", "/"),
    (r"\\(?:approx|equiv)(?![a-z])", "="),
    (r"(?<=\d)\s*[xX](?=\s*10\s*\^)", "*"),  # 3 x 10^5
    (r"(?<![\\a-zA-Z])pi\b", r"\\pi "),
    (r"(?<!\d )\b(?:[Mm]inus|[Nn]egative) (?=[\d.])", "-"),
    (r"[ \r\f\v]+", " "),
  ]
]


def simplify(text: str) -> str:
  """Typography and LaTeX to plain text, so that `\\$5,\\!500`, `5 500` and `\\dfrac38` become numbers. Meaning is kept."""
  return functools.reduce(
    lambda text, rule: rule[0].sub(rule[1], text), SIMPLIFY, text.translate(TYPOGRAPHY)
  ).strip()


# ------------------------------------------------------------------------------------------------ mathematics: read a number
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)(?:\.\d+|\.(?!\d))?|\.\d+"
NUMBER = rf"(?:{DIGITS})(?:[eE][+-]?\d{{1,3}}|\s?\*\s?10\s?\^\s?\{{?\s?[+-]?\d{{1,3}}\}}?)?"
VALUE = rf"(?:(?P<whole>\d+)(?:\s+|\sand\s))?(?P<top>{NUMBER})\s?/\s?(?P<bottom>{NUMBER})|(?P<number>{NUMBER})"
MAGNITUDES = {
  "hundred": 100,
  "thousand": 10**3,
  "million": 10**6,
  "billion": 10**9,
  "trillion": 10**12,
}
ONES = re.findall(
  r"\w+",
  """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen""",
)
TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
WORDS = {
  word: n
  for n, word in enumerate(
    ONES + [ten + one for ten in TENS for one in ["", *("-" + o for o in ONES[1:10])]]
  )
}
SPELLED = {
  *WORDS,
  *re.findall(
    r"\w+",
    "half halves third thirds quarter quarters fifth fifths sixth sixths eighth eighths tenth "
    "tenths",
  ),
}  # after a number word they make another number
# What may follow a number and leave it a number: a unit of up to four words. A single letter other than a unit's is algebra.
NOT_UNITS = "or|and|to|plus|minus|times|over|by|sqrt|pi|x|y|z|n|k|t|i|e|a|b|c|d|p|q|r|u|v|w|versus|vs|not|but|if"
POWER = r"(?:\s?\^?\{?[23]\}?)?"
UNIT = (
  rf"(?:(?:\s|-)?(?!(?:{NOT_UNITS})\b)[a-zA-Z'\"]+\.?{POWER}(?:\s?/\s?[a-zA-Z]+{POWER})?){{0,4}}"
)
PERCENT = r"\s?(?P<percent>%|percent\b)?"
QUANTITY = re.compile(
  rf"(?:[A-Z]{{2,3}} |Rs\.? ?)?(?P<sign>[+-]?)\s?(?:{VALUE}){PERCENT}(?P<unit>(?:\s?/\s?[a-zA-Z]+)?{UNIT})",
  re.A,
)
FAST = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.A)


class Number(NamedTuple):
  value: Fraction
  exact: bool  # written as an integer or a fraction
  percent: bool = False
  cents: bool = False


def read_number(text: str) -> Number | None:
  """The one number that `text` is, sign, grouping, fraction, unit and all; None for words, lists and expressions."""
  if FAST.fullmatch(text):
    return Number(Fraction(text), "." not in text)
  if len(text) > 300:
    return None
  text = simplify(text).rstrip(" .,;:!?*\"'`=_<>\n").lstrip(" ,;:*\"'`=_<>~#\n")
  text = text[1:-1].strip() if text.startswith("(") and text.endswith(")") else text
  first, _, unit = text.partition(" ")
  if first.lower() in WORDS and len(unit.split()) <= 2 and SPELLED.isdisjoint(unit.lower().split()):
    text = f"{WORDS[first.lower()]} {unit}".strip()
  match = QUANTITY.fullmatch(text)
  return to_number(match) if match else None


def to_number(match: re.Match) -> Number | None:
  """The number of a QUANTITY or TOKEN match; None where it is no number after all (division by zero)."""
  plain = lambda digits: Fraction(
    re.sub(r"[,\s{}]|\.$", "", digits).replace("*10^", "e").replace(".e", "e")
  )
  top, bottom, whole = (
    match["number"] or match["top"],
    match["bottom"] or "1",
    match["whole"] or "0",
  )
  if max(map(len, (top, bottom, whole))) > 200 or not (divisor := plain(bottom)):
    return None
  unit = [*match["unit"].lower().split(), ""][0]
  value = (
    (plain(top) / divisor + plain(whole))
    * MAGNITUDES.get(unit, 1)
    * (-1 if match["sign"] == "-" else 1)
  )
  return Number(
    value, not set(".eE*") & set(top + bottom), bool(match["percent"]), unit in ("cent", "cents")
  )
