"""Units of measure under their many spellings: "sq. ft.", "square feet" and "ft^2" are one.

Units are never converted and most nouns are none ("72 apples"): `measure` names a unit so that
"5 m" can be told from "5 cm".
"""

import functools
import re

# symbol → the singular of its other spellings
SPELLINGS = {
  "mm": "millimeter millimetre",
  "cm": "centimeter centimetre",
  "m": "meter metre",
  "km": "kilometer kilometre",
  "in": "inch inche",
  "ft": "foot feet",
  "yd": "yard",
  "mi": "mile",
  "mg": "milligram",
  "g": "gram gm",
  "kg": "kilogram kilo",
  "oz": "ounce",
  "lb": "pound",
  "ml": "milliliter millilitre",
  "l": "liter litre",
  "gal": "gallon",
  "sec": "s second",
  "min": "minute",
  "h": "hour hr",
  "day": "",
  "week": "wk",
  "month": "",
  "yr": "year",
  "degree": "deg",
  "rad": "radian",
  "n": "newton",
  "kn": "kilonewton",
  "j": "joule",
  "kj": "kilojoule",
  "w": "watt",
  "v": "volt",
  "pa": "pascal",
  "hz": "hertz",
}
SYMBOLS = {word: symbol for symbol, words in SPELLINGS.items() for word in [symbol, *words.split()]}
POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
WORD = re.compile(r"(?P<word>[a-z]+)(?P<power>[23])?")


@functools.lru_cache(maxsize=4096)
def measure(unit: str) -> str | None:
  """ "square feet" → "ft2", "miles per hour" → "mi/h"; None where a word of it is no measure."""
  unit = re.sub(r"\s*\^\s*\{?(\d)\}?", r"\1", unit.lower())  # "cm ^2" → "cm2"
  unit = re.sub(r"\s*(?:\bper\b|/)\s*", " / ", unit.replace("mph", "mi/h"))
  symbols, power = [], ""
  for word in unit.replace(".", " ").replace("-", " ").split():
    if word in POWERS:
      power = POWERS[word]
      continue
    found = WORD.fullmatch(re.sub(r"(?<=..)s$", "", word))
    symbol = "/" if word == "/" else SYMBOLS.get(found["word"]) if found else None
    if symbol is None:
      return None
    symbols.append(symbol + (power or (found and found["power"]) or ""))
    power = ""
  return "".join(symbols) or None
