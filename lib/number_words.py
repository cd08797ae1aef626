"""Numbers written in words: "one hundred twenty apples" → "120 apples", "two thirds" → "2/3".

`in_digits` rewrites the number words that a text begins with and keeps the rest, so that the
reading of digits (lib/quantities.py) needs to know no words. "one two three" is no number.
"""

import re

ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = (
  "ten",
  "eleven",
  "twelve",
  *(f"{stem}teen" for stem in ("thir", "four", "fif", "six", "seven", "eigh", "nine")),
)
TENS = tuple(f"{stem}ty" for stem in ("twen", "thir", "for", "fif", "six", "seven", "eigh", "nine"))
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}


def below_hundred() -> dict[str, int]:
  """The words for 0 to 99: "zero" → 0 … "ninety-nine" → 99."""
  words = ["zero", *ONES, *TEENS]
  for ten in TENS:
    words += [ten, *(f"{ten}-{one}" for one in ONES)]
  return {word: number for number, word in enumerate(words)}


SPELLED_NUMBERS = below_hundred()
# The second is left out: "10 seconds" are a time. "3 quarters" may be coins, see `in_digits`.
DENOMINATORS = {
  "half": 2,
  "halve": 2,
  "third": 3,
  "quarter": 4,
  "fourth": 4,
  "fifth": 5,
  "sixth": 6,
  "seventh": 7,
  "eighth": 8,
  "ninth": 9,
  "tenth": 10,
  "twelfth": 12,
  "sixteenth": 16,
  "twentieth": 20,
  "hundredth": 100,
  "thousandth": 1000,
  "millionth": 10**6,
}
WORD = rf"(?:zero|{'|'.join([*TEENS, *TENS, *ONES])}|hundred|{'|'.join(SCALES)})"
# "one hundred and five", "a thousand", "seventy-two"
CARDINAL = re.compile(
  rf"(?:an?\s+(?=hundred\b|thousand\b|"
  rf"million\b))?{WORD}\b(?:(?:(?<=[dn]),)?[\s-]+(?:and\s+)?{WORD}\b)*",
  re.I,
)
# A fraction's part behind its numerator: "thirds", "half"; "half a cup" is 1/2 cup
PART = (
  rf"(?P<part>{'|'.join(sorted(DENOMINATORS, key=len, reverse=True))})s?\b(?:(?<=half)\s+an?\b)?"
)
TOP = rf"(?P<top>an?|{'|'.join(ONES)}|\d+)"
# "2 and a half", "two and three quarters", "two-and-a-half"
MIXED = re.compile(rf"(?P<whole>\d+|{WORD}(?:-{WORD})?)[\s-]+and[\s-]+{TOP}[\s-]{PART}", re.I)
# "two thirds", "a half", "2 fifths", "half"; a bare "third" is a place, "3 quarters" may be coins
FRACTION = re.compile(
  rf"(?:{TOP}[\s-](?:(?<!\d.)|(?!quarter)(?:(?<=\b1.)|(?=\w+s\b))){PART}"  # "72 third graders"
  rf"|(?=half\b){PART.replace('part', 'half')})",
  re.I,
)


def cardinal(words: list[str]) -> int | None:
  """The value of ["one", "hundred", "and", "five"]; None where they are not one number."""
  if "zero" in words and len(words) > 1:
    return None
  total = 0  # of the thousands so far
  group = 0  # below the next of them
  limit = 10**15
  for word in words:
    if word in SCALES:
      # "two thousand five million" is none: scales come in descending order.
      if SCALES[word] >= limit:
        return None
      limit = SCALES[word]
      total += (group or 1) * limit
      group = 0
    elif word == "hundred":
      # "twelve hundred", but not "two hundred hundred"
      if group >= 100:
        return None
      group = (group or 1) * 100
    elif word == "and":
      # "one hundred and five", but "two and three" are two numbers
      if group % 100 or not total + group:
        return None
    else:
      number = SPELLED_NUMBERS[word]
      follows_ten = 0 < number < 10 and group % 100 >= 20 and group % 10 == 0
      if group % 100 and not follows_ten:
        return None
      group += number
  return total + group


def in_digits(text: str) -> str | None:
  """The text with the number that it begins with in digits; itself where that is not in words.

  None for words that are no one number, such as "two seventy".
  """
  if text.startswith("-"):
    written = in_digits(text[1:])
    return written and f"-{written}"
  mixed = MIXED.match(text)
  if mixed:
    whole, top = small_number(mixed["whole"]), small_number(mixed["top"])
    return f"{whole} {top}/{DENOMINATORS[mixed['part'].lower()]}{text[mixed.end() :]}"
  fraction = FRACTION.match(text)
  if fraction:
    part = fraction["part"] or fraction["half"]
    top = small_number(fraction["top"] or "a")
    return f"{top}/{DENOMINATORS[part.lower()]}{text[fraction.end() :]}"
  if re.match(r"a dozen\b", text, re.I):
    return f"1{text[1:]}"
  found = CARDINAL.match(text)
  if not found:
    return text
  words = re.findall(r"[a-z]+", found.group().lower())
  value = cardinal([word for word in words if word not in ("a", "an")])
  return None if value is None else f"{value}{text[found.end() :]}"


def small_number(word: str) -> int:
  """ "three" → 3, "12" → 12, "a" → 1."""
  return int(word) if word.isdigit() else SPELLED_NUMBERS.get(word.lower(), 1)


PART_WORD = re.compile(PART, re.I)


def changes_number(word: str) -> bool:
  """Makes another number of a number word before it: "two thirds", "five hundred two"."""
  return word in SPELLED_NUMBERS or bool(PART_WORD.fullmatch(word))
