r"""Reading one number as people and models write it: `simplify` the text, then `read_number`.

`simplify` turns typography and LaTeX into plain text and keeps the meaning: "\$5,\!500" → "5,500",
"\dfrac38" → "3/8", "45°" → "45 degrees". `read_number` then takes the whole of a text as one number
with its sign, grouping, fraction, power of ten, percent sign and unit, or refuses it: allowed is
what `QUANTITY` spells out, and nothing else is a number.
"""

import functools
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from lib import number_words

MAX_NUMBER_TEXT = 300  # characters; longer is no number
MAX_DIGITS = 200  # of one numeral


# Typography → the plain character. Spaces of every width, and currency signs, become a space.
def typography() -> dict[int, str]:
  table = {"π": r"\pi ", "％": "%", "≈": "=", "º": "°", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne "}
  table |= {"∞": r"\infty ", "∪": r"\cup ", "±": r"\pm "}
  table |= dict.fromkeys("−–‒﹣－", "-")
  table |= dict.fromkeys("×·⋅", "*")
  table |= dict.fromkeys("÷⁄∕", "/")
  table |= dict.fromkeys("\u00a0\u2002\u2003\u2005\u2006\u2007\u2009\u200a\u202f\t", " ")
  table |= dict.fromkeys("€£¥₹₽¢$", " ")
  table |= dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "")  # of no width
  for digit, wide, raised in zip("0123456789", "０１２３４５６７８９", "⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True):
    table[wide] = digit
    table[raised] = f"^{digit}"
  for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞":  # "2½" → "2 1/2"
    table[character] = " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")
  return str.maketrans(table)


TYPOGRAPHY = typography()
TEXT_COMMAND = (
  r"\\(?:text(?:bf|it|rm|sf|tt)?|mathrm|mathbf|boldsymbol|mbox|operatorname|boxed|fbox)"
)


def plain_fraction(match: re.Match) -> str:
  top, bottom = match[1] or match[2], match[3] or match[4]
  return f" {top}/{bottom} "


def plain_root(match: re.Match) -> str:
  return rf"\sqrt{{{match[1] or match[2]}}}"


# Applied in this order: (pattern, replacement), an example beside each that needs one.
SIMPLIFY = [
  (re.compile(pattern), replacement)
  for pattern, replacement in [
    (r"<<[^<>]*>>", ""),  # GSM8K's calculator notes: "<<6*7=42>>42" → "42"
    (r"</?[a-zA-Z][^<>]{0,60}>", " "),  # stray HTML: "<b>18</b>"
    (r"^<(-?[\d.]+)>$", r"\1"),  # "<18>", copied from a template
    (r"\\!|\\(?:left|right|displaystyle|limits|ldots|quad|qquad)(?![a-z])|\{\}", ""),
    (r"(?<!\\)\\%", "%"),
    (r"(?<!\\)\\[,;:> ()\[\]$]", " "),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°", " degrees "),
    (TEXT_COMMAND + r"\s*\{([^{}]*)\}", r" \1 "),  # "\text{ cm}" → " cm "
    (r"\*\*([^*\n]+)\*\*", r" \1 "),  # Markdown's bold
    (r"\{,\}", ","),  # "5{,}500"
    (r"\\[dtc]frac", r"\\frac"),
    # "\frac{3}{8}", "\frac38" → "3/8"
    (
      r"\\frac\s*(?:\{\s*(-?[\d.]+)\s*\}|(\d))\s*(?:\{\s*([\d.]+)\s*\}|(\d))",
      plain_fraction,
    ),
    (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
    (r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?))", plain_root),  # "√30", "√(30)"
    (r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
    (r"\\(?:times|cdot|ast)(?![a-z])", "*"),
    (r"\\div(?![a-z])", "/"),
    (r"<=", r"\\le "),
    (r">=", r"\\ge "),
    (r"\\(?:approx|equiv)(?![a-z])", "="),
    (r"(?<=\d)\s*[xX](?=\s*10\s*\^)", "*"),  # "3 x 10^5"
    (r"(?<![\\a-zA-Z])pi\b", r"\\pi "),
    (r"(?<![\\a-zA-Z])(sin|cos|tan|cot|log|ln)(?=\s?[\d(\\])", r"\\\1"),  # "cos 13" → "\cos 13"
    (r"(?<!\d )\b(?:[Mm]inus|[Nn]egative) (?=[\d.])", "-"),
    (r"(?<=\d):00(?=\s?[apAP]\.?[mM])", ""),  # "2:00 am" → "2 am"
    (r"[ \r\f\v]+", " "),
  ]
]


# Every pattern above but those for words and spaces needs one of these.
MARKUP = re.compile(r"[\\<>{}^°√*]")
# What those match where there is no markup.
IN_PLAIN_TEXT = re.compile(r"sqrt|pi|sin|cos|tan|cot|log|ln|inus |egative |:00|  |[\r\f\v]")


@functools.lru_cache(maxsize=1024)  # an answer is simplified at several points of its reading
def simplify(text: str) -> str:
  """Typography and LaTeX to plain text; what the text says stays."""
  text = text.translate(TYPOGRAPHY)
  # Most answers have nothing to simplify, and two searches are cheaper than two dozen.
  if MARKUP.search(text) or IN_PLAIN_TEXT.search(text):
    for pattern, replacement in SIMPLIFY:
      text = pattern.sub(replacement, text)
  return text.strip()


# "1,234", "1 234", "1234", "1234.5", "12.", ".5"; a group has three digits: "1,23" is no number
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)(?:\.\d+|\.(?!\d))?|\.\d+"
# ... with a power of ten: "1.5e3", "1.5 * 10^{3}"
NUMBER = rf"(?:{DIGITS})(?:[eE][+-]?\d{{1,3}}|\s?\*\s?10\s?\^\s?\{{?\s?[+-]?\d{{1,3}}\}}?)?"
# "3/8", "2 1/2", "2 and 1/2", or a NUMBER
VALUE = (
  rf"(?:(?P<whole>\d+)(?:\s+|\sand\s))?(?P<top>{NUMBER})\s?/\s?(?P<bottom>{NUMBER})"
  rf"|(?P<number>{NUMBER})"
)
PERCENT = r"(?:\s?(?P<percent>%|percent\b)(?!\s+of\s+\d))?"  # but "72% of 90" is 64.8

# The closed class of words that give a statement another meaning than its number: "not 72",
# "72 is wrong", "more than 72", "72 or 71", "maybe 72". None of them is part of a unit, and a
# sentence that holds one outside its reasons states nothing (lib/statements.py).
DENIALS = (
  "not|no|never|none|nobody|nothing|neither|nor|cannot|without|hardly|scarcely|barely|anything|"
  "\\w+n['’]t|wrong|wrongly|false|falsely|incorrect|incorrectly|untrue|mistake|mistaken|mistakenly|"
  "invalid|impossible|fails?|failed|unlikely|unequal|except|exclud\\w+|instead|rather|unless|"
  "lies?|lied|lying|opposite|pretend\\w*|deny|denies|denied|refus\\w+|reject\\w*|exceed\\w*|surpass\\w*"
)
DOUBTS = (
  "maybe|perhaps|possibly|probably|presumably|might|may(?=\\s+(?:be|have|not|well|or)\\b)|doubts?|"
  "doubted|doubtful|guess\\w*|unsure|uncertain|unclear|unknown|whether|if|wonder\\w*|suppose\\w*|"
  "claims|claimed|allegedly|supposedly|reportedly|thinks|thought|"
  "(?:they|some|people|others|many)\\s+(?:think|say|believe)|"
  "(?:some|others|many)\\s+(?:gets?|got|answer)|na[iï]ve(?:ly)?|seemingly|apparently|tempting|"
  "assum\\w+|almost|nearly|or|either|versus|vs|sometimes|hopefully"
)
# "72 at most", "72 plus", "72nd", "72 squared". But "72 more" and "72 times" are answers to how
# many more and how often.
BOUNDS = (
  "most|least|above|below|under|beyond|minimum|maximum|max|tops|upwards?|ish|plus|minus|"
  "squared|cubed|double|twice|half|factorial|divided|multiplied|increased|decreased|reduced|raised|"
  "st|nd|rd|th|gross|score|mil|mn|mln|something|odd(?!\\s+\\w)"
)
# What a unit does not begin with besides: joining words, verbs of being, single letters of algebra.
JOINERS = (
  rf"point(?=\s+{number_words.WORD}\b)|"
  "at(?=\\s+(?:least|most))|out(?=\\s+of)|and|to|over|by|than|but|sqrt|pi|"
  "is|are|was|were|be|been|has|have|had|isn|think|believe|"
  "because|since|so|as|that|which|while"
)
# Of the capitals C, F, J, L, N, V and W are units; "72A" is a seat, "72K" or "72M" other numbers.
LETTERS = "x|y|z|n|k|t|i|e|a|b|c|d|p|q|r|u|v|w|A|B|D|E|G|H|I|K|M|O|P|Q|R|S|T|U|X|Y|Z"
UNIT_POWER = r"(?:\s?\^\s?\{?[23]\}?|[23](?!\d))?"
UNIT_WORD = (
  rf"(?!(?i:{DENIALS}|{DOUBTS}|{BOUNDS}|{JOINERS})\b)(?!(?-i:{LETTERS})(?![a-zA-Z]))"
  rf"[a-zA-Z'\"&]++\.?{UNIT_POWER}(?:\s?/\s?[a-zA-Z]++{UNIT_POWER})?"
)
CURRENCY_CODES = "USD|EUR|GBP|INR|JPY|CNY|CAD|AUD|NZD|CHF|KRW|MXN|PHP|SGD|HKD|ZAR|BRL"
# Units that begin with a capital and stand at their number: "72V", "72MB". "72AB" is a name.
CAPITAL_UNIT = rf"[CFJLNVW]|[kKMGT]?(?:Wh|Hz|Pa|B|W|J)|AM|PM|{CURRENCY_CODES}"
# Between a number and its unit: a space, or nothing where the unit is small or a known capital.
JOINT = rf"(?:\s|-(?!odd\b)(?=(?-i:[a-z]))|(?!(?-i:[A-Z]))|(?=(?-i:{CAPITAL_UNIT})(?![a-zA-Z\d])))"
# "72 out of 100" and "2/3 of 9" are not what their number says
SHARE = (
  rf"\s+(?:(?:out\s+)?of\s+(?:an?\s+|every\s+)?(?:\d|{number_words.WORD}\b)"
  rf"|(?:in|per|from|over)\s+(?:an?\s+|every\s+)?(?:\d+|{number_words.WORD})\W*$)"
)
# Up to four words: "apples", "km/h", "cm^2", "pairs of shoes", "square units"
UNIT = rf"(?:(?!{SHARE}){JOINT}{UNIT_WORD}(?:[\s-]{UNIT_WORD}){{0,3}})?"
# "USD 18", "Rs. 18", "%95" stand before the number
QUANTITY = re.compile(
  rf"(?:(?:US|{CURRENCY_CODES}) ?|Rs\.? ?|%)?(?P<sign>[+-]?)\s?(?:{VALUE}){PERCENT}"
  rf"(?P<unit>(?:\s?/\s?[a-zA-Z]++)?{UNIT})",
  re.A,
)
# No number is without one of these.
DIGIT_OR_WORD = re.compile(
  rf"[\d¼-¾⅓-⅞⁰-⁹¹²³]|\b(?:dozen|{number_words.WORD}|{'|'.join(number_words.DENOMINATORS)})", re.I
)
SHARE_OF_ALL = re.compile(r"(?P<part>\d+) (?:out of|in) (?P<whole>\d+)")
PLAIN_NUMERAL = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?", re.A)  # most answers; saves the rest

# Words that multiply the number before them: "2 dozen eggs" are 24.
MAGNITUDES = {
  "dozen": 12,
  "hundred": 100,
  **number_words.SCALES,
  "lakh": 10**5,
  "crore": 10**7,
  "bn": 10**9,
}
# "2 hundredths"; "3 quarters" may be coins
FRACTION_WORD = re.compile(rf"(?!quarter)(?:{'|'.join(number_words.DENOMINATORS)})s?")


class Number(NamedTuple):
  value: Fraction
  exact: bool  # written as an integer or a fraction, not as a decimal
  percent: bool = False
  cents: bool = False

  def unlike(self, other: "Number") -> bool:
    return self.value != other.value and self.percent == other.percent and not self.cents


def read_number(text: str) -> Number | None:
  """The one number that `text` is, unit and all; None for words, lists, bounds and expressions."""
  if PLAIN_NUMERAL.fullmatch(text):
    return Number(Fraction(text), "." not in text)
  if len(text) > MAX_NUMBER_TEXT or not DIGIT_OR_WORD.search(text):
    return None
  text = simplify(text).rstrip(" .,;:!*\"'`_\n").lstrip(" ,;:*\"'`_=~#\n")
  if text.startswith("(") and text.endswith(")"):
    text = text[1:-1].strip()
  written = number_words.in_digits(text)
  if written is None:
    return None  # "two seventy"
  # "six apples" → "6 apples"; behind more words "one" is seldom a number ("one could say").
  unit_words = written.lower().split()[1:]
  if len(unit_words) <= 2 and not any(map(number_words.changes_number, unit_words)):
    text = written
  share = SHARE_OF_ALL.fullmatch(text)
  if share:
    text = f"{share['part']}/{share['whole']}"  # "3 out of 4" → "3/4"
  match = QUANTITY.fullmatch(text)
  return to_number(match) if match else None


def to_number(match: re.Match) -> Number | None:
  """The number of a match that holds VALUE, PERCENT, a sign and a unit; None for "1/0"."""
  top = match["number"] or match["top"]
  bottom = match["bottom"] or "1"
  whole = match["whole"] or "0"
  if max(len(top), len(bottom), len(whole)) > MAX_DIGITS:
    return None
  divisor = numeral(bottom)
  if divisor == 0:
    return None
  value = numeral(whole) + numeral(top) / divisor
  first_unit, *units = match["unit"].lower().split() or [""]
  if first_unit in MAGNITUDES and any(map(number_words.changes_number, units)):
    return None  # "2 hundred five"
  if FRACTION_WORD.fullmatch(first_unit):
    return None  # "2 fifths"; "3 quarters" may be coins
  value *= MAGNITUDES.get(first_unit, 1)
  if match["sign"] == "-":
    value = -value
  exact = not set(".eE*") & set(top + bottom)
  return Number(value, exact, bool(match["percent"]), first_unit in ("cent", "cents"))


def numeral(digits: str) -> Fraction:
  """The value of a NUMBER: "1,234" → 1234, "12." → 12, "1.5 * 10^{3}" → 1500."""
  digits = re.sub(r"[,\s{}]|\.$", "", digits)
  return Fraction(digits.replace("*10^", "e").replace(".e", "e"))
