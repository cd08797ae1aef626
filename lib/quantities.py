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

from lib import measures, number_words

MAX_NUMBER_TEXT = 300  # characters; longer is no number
MAX_DIGITS = 200  # of one numeral


# Typography → the plain character. Spaces of every width, and currency signs, become a space.
def typography() -> dict[int, str]:
  table = {"π": r"\pi ", "％": "%", "≈": "=", "º": "°", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne "}
  table |= {
    "∞": r"\infty ",
    "∪": r"\cup ",
    "±": r"\pm ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "ℝ": r"\mathbb{R}",
  }
  table |= {"：": ":", "？": "?", "¢": " cents "}
  table |= dict.fromkeys("−–‒﹣－", "-")
  table |= dict.fromkeys("×·⋅", "*")
  table |= dict.fromkeys("÷⁄∕", "/")
  table |= dict.fromkeys("\u00a0\u2002\u2003\u2005\u2006\u2007\u2009\u200a\u202f\t", " ")
  table |= dict.fromkeys("€£¥₹₽$", " ")
  table |= dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "")  # of no width
  table |= dict(zip("０１２３４５６７８９", "0123456789", strict=True))
  for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞":  # "2½" → "2 1/2"
    table[character] = " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")
  return str.maketrans(table)


TYPOGRAPHY = typography()
RAISED = re.compile("[⁺⁻⁰¹²³⁴-⁹]+")
LOWERED = re.compile("[₀-₉]+")
TEXT_COMMAND = (
  r"\\(?:text(?:bf|it|rm|sf|tt)?|mathrm|mathbf|boldsymbol|mbox|operatorname|boxed|fbox|underline)"
)


# "72 K" are kelvin, but "$72 K" is money: joined to "$72K" it is no 72. A "$" behind the letter
# would close a formula: "$5 k + 3$".
SHORT_SCALE = re.compile(r"(?<=[$€£])(\s?[\d,.]*\d)\s([kKMB])\b(?![^$\n]*\$)")


def plain_fraction(match: re.Match) -> str:
  top, bottom = match[1] or match[2], match[3] or match[4]
  return f" {top}/{bottom} "


def raised_digits(match: re.Match) -> str:
  """ "¹²" → "^{12}"."""
  return f"^{{{unicodedata.normalize('NFKC', match.group()).replace('−', '-')}}}"


def lowered_digits(match: re.Match) -> str:
  """ "₁₆" → "_{16}"."""
  return f"_{{{unicodedata.normalize('NFKC', match.group())}}}"


def repeating_decimal(match: re.Match) -> str:
  r""" "0.1\overline{6}" → "15/90", which is 1/6."""
  first, again = match["first"], match["again"]
  whole = int(match["whole"] + first)
  nines = "9" * len(again) + "0" * len(first)
  return f" {int(match['whole'] + first + again) - whole}/{nines} "


def numeral_in_base(match: re.Match) -> str:
  """ "1011 in base 2", "1011 (binary)", "1011_{two}" → "1011_{2}"."""
  word = match["base"].lower()
  return f"_{{{NAMED_BASES.get(word) or number_words.SPELLED_NUMBERS.get(word, word)}}}"


def plain_root(match: re.Match) -> str:
  return rf"\sqrt{{{match[1] or match[2]}}}"


NAMED_BASES = {"binary": "2", "octal": "8", "hexadecimal": "16", "hex": "16"}
# Applied in this order: (pattern, replacement), an example beside each that needs one.
SIMPLIFY = [
  (re.compile(pattern), replacement)
  for pattern, replacement in [
    (r"<<[^<>]*>>", ""),  # GSM8K's calculator notes: "<<6*7=42>>42" → "42"
    # stray HTML: "<b>18</b>", but not what is struck out
    (r"</?(?!(?:s|del|strike)>)[a-zA-Z][^<>]{0,60}>", " "),
    (r"^<(-?[\d.]+)>$", r"\1"),  # "<18>", copied from a template
    (r"\\!|\\(?:left|right|displaystyle|limits|ldots|quad|qquad|bf|it|large)(?![a-z])|\{\}", ""),
    (r"\\(?:text)?color\s*\{[a-z]+\}", ""),
    (r"(?<!\\)\\%", "%"),
    (r"(?<!\\)\\[,;:> ()\[\]$]", " "),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree|°", " degrees "),
    (TEXT_COMMAND + r"\s*\{([^{}]*)\}", r" \1 "),  # "\text{ cm}" → " cm "
    (r"(?<![a-zA-Z]{2})(?<=[\w)])\*\*(?=[\d(])", "^"),  # Python's power: "x**2"
    (r"\*\*([^*\n]+)\*\*", r" \1 "),  # Markdown's bold
    (r"(?<=\d)~(?!~)", " "),  # "5~cm"
    (r"(?P<whole>\d+)\.(?P<first>\d*)\\overline\{(?P<again>\d+)\}", repeating_decimal),
    (r"\{,\}", ","),  # "5{,}500"
    (r"\\[dtc]frac", r"\\frac"),
    # "\frac{3}{8}", "\frac38" → "3/8"; but "\frac{3}{8}ab" is algebra
    (
      r"\\frac\s*(?:\{\s*(-?[\d.]+)\s*\}|(\d))\s*(?:\{\s*([\d.]+)\s*\}|(\d))(?![a-zA-Z])",
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
    # "cos 13" → "\cos 13"
    (r"(?<![\\a-zA-Z])(sin|cos|tan|cot|log|ln|exp)(?=\s?[\d(\\_])", r"\\\1"),
    (r"(?<![\\a-zA-Z])inf(?:inity)?\b(?!-)", r"\\infty "),
    (r"\bplus or minus\b", r"\\pm "),
    (r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup "),
    (rf"(?<!\d )\b(?:[Mm]inus|[Nn]egative) (?=[\d.\\]|{number_words.WORD}\b)", "-"),
    (r"\b(?:the )?square root of (\d+(?:\.\d+)?)", r"\\sqrt{\1}"),
    # "1011 in base 2", "1011 (base two)", "2A in hexadecimal"
    (
      r"(?<=\w)\s+[(\[]?(?:in\s+)?(?:base[\s-](?=\w))?"
      r"(?P<base>binary|octal|hex(?:adecimal)?|(?<=base.)\w+)\b[)\]]?(?=\W*$)",
      numeral_in_base,
    ),
    (r"_\s*\{\s*(?P<base>[a-z]{3,})\s*\}", numeral_in_base),
    (r"\b0b([01]+)\b", r"\1_{2}"),
    (r"\b0x([0-9A-Fa-f]+)\b", r"\1_{16}"),
    (r"\\[dt]?binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}"),
    (r"(?<=\d):00(?=\s?[apAP]\.?[mM])", ""),  # "2:00 am" → "2 am"
    (r"[ \r\f\v]+", " "),
  ]
]


# Every pattern above but those for words and spaces needs one of these.
MARKUP = re.compile(r"[\\<>{}^°√*~]")
# What those match where there is no markup.
IN_PLAIN_TEXT = re.compile(
  r"sqrt|pi|sin|cos|tan|cot|log|ln|exp|inf|inus |egative |square root|0[bx]|[)\]]\s*U|base"
  r"|binary|octal|hex|:00|  |[\r\f\v]"
)


@functools.lru_cache(maxsize=1024)  # an answer is simplified at several points of its reading
def simplify(text: str) -> str:
  """Typography and LaTeX to plain text; what the text says stays."""
  if not text.isascii():
    text = LOWERED.sub(lowered_digits, RAISED.sub(raised_digits, text))
  text = SHORT_SCALE.sub(r"\1\2", text).translate(TYPOGRAPHY)
  # Most answers have nothing to simplify, and two searches are cheaper than two dozen.
  if MARKUP.search(text) or IN_PLAIN_TEXT.search(text):
    for pattern, replacement in SIMPLIFY:
      text = pattern.sub(replacement, text)
  return text.strip()


# "1,234", "1 234", "1234", "1234.5", "12.", ".5"; a group has three digits: "1,23" is no number
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d+)(?:\.\d+|\.(?!\d))?|\.\d+"
# ... with a power of ten: "1.5e3", "1.5 * 10^{3}"
TEN_TO_THE = r"10\s?\^\s?\{?\s?[+-]?\d{1,3}\}?"
NUMBER = rf"(?:(?:{DIGITS})(?:[eE][+-]?\d{{1,3}}|\s?\*\s?{TEN_TO_THE})?|{TEN_TO_THE})"
# "3/8", "2 1/2", "2 and 1/2", or a NUMBER
VALUE = (
  rf"(?:(?P<whole>\d+)(?:\s+|\sand\s))?(?P<top>{NUMBER})\s?/\s?(?P<bottom>{NUMBER})"
  rf"|(?P<number>{NUMBER})"
)
PERCENT = r"(?:\s?(?P<percent>%|per\s?cent\b|pct\b)(?!\s+of\s+\d))?"  # but "72% of 90" is 64.8

# The closed class of words that give a statement another meaning than its number: "not 72",
# "72 is wrong", "more than 72", "72 or 71", "maybe 72". None of them is part of a unit, and a
# sentence that holds one outside its reasons states nothing (lib/statements.py).
DENIALS = (
  "not|no|never|none|nobody|nothing|neither|nor|cannot|without|hardly|scarcely|barely|anything|"
  "\\w+n['’]t|wrong|wrongly|false|falsely|incorrect|incorrectly|untrue|mistake|mistaken|mistakenly|"
  "invalid|impossible|fails?|failed|unlikely|unequal|except|exclud\\w+|instead|rather|unless|"
  "lies?|lied|lying|opposite|(?:every|any|all|no)\\w*\\s+(?:\\w+\\s+)?save|"
  "falsch\\w*|faux|fausse|nicht|kein\\w*|pretend\\w*|deny|denies|denied|refus\\w+|reject\\w*|"
  "exceed\\w*|surpass\\w*"
)
DOUBTS = (
  "maybe|perhaps|possibly|probably|presumably|might|may(?=\\s+(?:be|have|not|well|or)\\b)|doubts?|"
  "doubted|doubtful|pending|theoretically|hypothetically|ideally|in\\s+(?:case|theory|principle)|"
  "guess\\w*|unsure|uncertain|unclear|unknown|whether|if|wonder\\w*|suppose\\w*|"
  "claims|claimed|allegedly|supposedly|reportedly|thinks|thought|"
  "(?:they|you|one|some|people|others|many)\\s+(?:would\\s+|might\\s+)?(?:think|say|believe|"
  "expect)|"
  "(?:some|others|many)\\s+(?:gets?|got|answer)|na[iï]ve(?:ly)?|seemingly|apparently|tempting|"
  "assum\\w+|almost|nearly|or|either|versus|vs|sometimes|hopefully"
)
# What is still to be paid or taken off: "$72 before tax" is no final sum.
CHARGE = (
  "(?:(?:the|any|sales)\\s+)?(?:tax(?:es)?|tips?|vat|gst|discounts?|fees?|shipping|deductions?"
  "|expenses|interest|rounding)\\b"
)
# "72 at most", "72 plus", "72nd", "72 squared". But "72 more" and "72 times" are answers to how
# many more and how often.
BOUNDS = (
  "most|least|above|below|under|beyond|minimum|maximum|max|tops|\\w+wards?|ish|plus|minus|"
  f"(?:less|ex|net\\s+of)(?=\\s+{CHARGE})|per\\s?cent|per\\s+mille|doubled|halved|tripled|"
  "exclusive|"
  "squared|cubed|double|twice|half|factorial|divided|multiplied|increased|decreased|reduced|raised|"
  "st|nd|rd|th|something|others|etc|bce?|odd(?!\\s+\\w)"
)
# What a unit does not begin with besides: joining words, verbs of being, single letters of algebra.
JOINERS = (
  rf"point(?=\s+{number_words.WORD}\b)|"
  "at(?=\\s+(?:least|most))|out(?=\\s+of)|(?:can|could|will|would|must|should)(?=\\s+be\\b)|"
  "at|with|before|after|among|from|and|to|over|by|than|but|sqrt|pi|"
  "is|are|was|were|be|been|has|have|had|isn|think|believe|"
  "because|since|so|as|that|which|while"
)
# Of the capitals A, C, F, J, K, L, N, V and W are units, A and K behind a space only: "72A" is a
# seat, "72K" or "72M" other numbers.
LETTERS = "x|y|z|n|k|t|i|e|a|b|c|d|p|q|r|u|v|w|B|D|E|G|H|I|M|O|P|Q|R|S|T|U|X|Y|Z"
# These deny nothing of the number of such things: "72 wrong answers", "72 no-shows", "72 T-shirts".
ATTRIBUTE = (
  r"(?:wrong|incorrect|false|failed|unknown|invalid|rejected|mistaken|double|maximum|minimum)"
  r"(?=[\s-][a-z-]+(?:\s[a-z]+)?s\b)"
)
COMPOUND = r"(?![a-zA-Z]|-[a-z]{3})"  # no hyphen that makes a longer word of it
UNIT_POWER = r"(?:\s?\^\s?\{?[23]\}?|[23](?!\d))?"
UNIT_WORD = (
  rf"(?:(?={ATTRIBUTE})|(?!(?i:{DENIALS}|{DOUBTS}|{BOUNDS}|{JOINERS})\b{COMPOUND}))"
  rf"(?!(?-i:{LETTERS}){COMPOUND})[a-zA-ZΩμµ'\"&]++\.?{UNIT_POWER}"
  rf"(?:\s?/\s?[a-zA-Z]++{UNIT_POWER})?"
)
CURRENCY_CODES = "USD|EUR|GBP|INR|JPY|CNY|CAD|AUD|NZD|CHF|KRW|MXN|PHP|SGD|HKD|ZAR|BRL"
# Units that begin with a capital and stand at their number: "72V", "72MB". "72AB" is a name.
CAPITAL_UNIT = rf"[CFJLNVW]|[kKMGT]?(?:Wh|Hz|Pa|B|W|J)|AM|PM|{CURRENCY_CODES}"
# Between a number and its unit: a space, or nothing where the unit is small or a known capital.
# "3ab" and "2xy" are products: short letters right behind a number are a unit only if known.
PRODUCT = (
  rf"(?!(?:{'|'.join(measures.SYMBOLS)}|am|pm|[km]?ph|mpg|rpm|yrs|hrs|lbs)(?![a-z]))"
  r"(?-i:[a-z]{2,3})(?![a-zA-Z'])"
)
JOINT = (
  r"(?:\s|-(?!odd\b)(?=(?-i:[a-z]))"
  rf"|(?<!\.)(?!{PRODUCT})(?:(?!(?-i:[A-Z]))|(?=(?-i:{CAPITAL_UNIT})(?![a-zA-Z\d]))))"
)
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
  "tens": 10,
  "dozen": 12,
  "score": 20,
  "gross": 144,
  "hundred": 100,
  **number_words.SCALES,
  "lakh": 10**5,
  "lac": 10**5,
  "crore": 10**7,
  "cr": 10**7,
  "grand": 10**3,
  "mil": 10**6,
  "mln": 10**6,
  "mn": 10**6,
  "bil": 10**9,
  "bn": 10**9,
  "tn": 10**12,
}
MAGNITUDES |= {f"{word}s": value for word, value in MAGNITUDES.items()}  # "3 dozens"
# "2 hundredths", "7 fifteenths"; "3 quarters" may be coins
FRACTION_WORD = re.compile(
  rf"(?!quarter)(?:{'|'.join(number_words.DENOMINATORS)}|\w+(?:teen|tie)th)s"
  r"|(?:ten|hundred)-\w+ths"
)


class Number(NamedTuple):
  value: Fraction
  exact: bool  # written as an integer or a fraction, not as a decimal
  percent: bool = False
  cents: bool = False
  unit: str = ""  # as written

  def unlike(self, other: "Number") -> bool:
    return self.value != other.value and self.percent == other.percent and not self.cents

  def amount(self) -> Fraction:
    """75% and 3/4 are one amount."""
    return self.value / 100 if self.percent else self.value

  def other_measure(self, other: "Number") -> bool:
    """Is the one in metres and the other in feet? Nothing is converted."""
    here, there = measures.measure(self.unit), measures.measure(other.unit)
    return bool(here and there and here != there)


def read_number(text: str) -> Number | None:
  """The one number that `text` is, unit and all; None for words, lists, bounds and expressions."""
  if PLAIN_NUMERAL.fullmatch(text):
    return Number(Fraction(text), "." not in text)
  if len(text) > MAX_NUMBER_TEXT or not DIGIT_OR_WORD.search(text):
    return None
  text = simplify(text).rstrip(" .,;:*\"'`_\n").lstrip(" ,;:*\"'`_=~#\n")
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
  cents = first_unit in ("cent", "cents")
  return Number(value, exact, bool(match["percent"]), cents, match["unit"].strip(" -"))


def numeral(digits: str) -> Fraction:
  """The value of a NUMBER: "1,234" → 1234, "12." → 12, "1.5 * 10^{3}" → 1500."""
  digits = re.sub(r"[,\s{}]|\.$", "", digits)
  digits = re.sub(r"^10\^", "1e", digits)  # "10^{-5}"
  return Fraction(digits.replace("*10^", "e").replace(".e", "e"))
