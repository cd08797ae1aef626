"""Sums as answers show them: "30 minutes - 19 minutes = 11". `comes_out` works one out.

`SUM` finds a sum with its result in a sentence; `spoken_sum` reads "8 times 9".
"""

import re
from fractions import Fraction

from lib import quantities

# A sum and its result: "30 minutes - 19 minutes = 11"
TERM = rf"(?:{quantities.DIGITS})%?(?:\s[a-z]+){{0,2}}+"
SUM = re.compile(
  rf"(?<![\w.,^])(?P<sum>{TERM}(?:\s*[-+*/]\s*{TERM})++)\s*=\s*(?P<value>-?(?:{quantities.DIGITS}))"
  r"(?![\w%^/*])"
)
SUM_PARTS = re.compile(r"[-+*/]|(?:\d[\d,]*\.?\d*|\.\d+)%?")
SPOKEN_OPERATORS = (
  (re.compile(r"\b(?:times|multiplied\s+by)\b|(?<=\d)\s*x\s*(?=\d)", re.I), "*"),
  (re.compile(r"\b(?:divided\s+by|over)\b", re.I), "/"),
  (re.compile(r"\bplus\b", re.I), "+"),
  (re.compile(r"\bminus\b", re.I), "-"),
)
ONLY_TERMS = re.compile(rf"{TERM}(?:\s*[-+*/]\s*{TERM})+")


def spoken_sum(text: str) -> str | None:
  """A sum without its result, in signs: "8 times 9" → "8 * 9"; None for what is no sum."""
  for spoken, sign in SPOKEN_OPERATORS:
    text = spoken.sub(f" {sign} ", text)
  text = " ".join(text.split())
  return text if ONLY_TERMS.fullmatch(text) else None


def comes_out(terms: str, result: str) -> bool:
  """Is "30 minutes - 19 minutes" 11? A decimal result may be rounded to the digits it shows."""
  # Products bind first: 2 + 3 * 4 is kept as [0, 2, 12] and then added up.
  products = [Fraction(0)]
  operator = "+"
  for part in SUM_PARTS.findall(terms):
    if part in "+-*/":
      operator = part
      continue
    number = Fraction(part.rstrip("%").replace(",", "")) / (100 if part.endswith("%") else 1)
    if operator == "/" and number == 0:
      return False
    if operator == "*":
      products[-1] *= number
    elif operator == "/":
      products[-1] /= number
    else:
      products.append(number if operator == "+" else -number)
  value = quantities.numeral(result.removeprefix("-")) * (-1 if result.startswith("-") else 1)
  decimals = len(result.partition(".")[2])
  # "580 / 110 = 5.27" is right to two digits, "= 5.28" is not.
  allowed = Fraction(1, 2 * 10**decimals) if decimals else 0
  return abs(sum(products) - value) <= allowed
