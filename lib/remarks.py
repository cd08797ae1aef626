"""What may stand around a value and leave it as it is: ", of course", "(8 times 9)", "✅".

An allow-list again (see lib/statements.py): `without_remarks` cuts these and nothing else. Beside
them stand the signs that make another value of a number, or no value: "5!", "1, 2, …", "❌ 5".
"""

import re

from lib import number_words, quantities, sums

# A note in brackets that must come out at the value before it: "72 (8 times 9)", "72 (= 8 * 9)"
NOTE = re.compile(
  r"(?P<said>.*\d.*?|[a-z -]+?)(?:\s+[(\[]|,\s+(?=i\.?e\b|or\b))"
  r"\s*(?:=|or\s+|i\.?e\.?,?\s+)?(?P<note>[^()\[\]]{1,80})[)\]]?",
  re.I | re.S,
)
# What may follow a value and leave it as it is: ", of course", ", as required", ", tax included".
# Anything else may go on: ", and then she eats 2".
CLOSING = re.compile(
  r"""(?:
      ,?\s+(?:of\s+course|obviously|clearly|indeed|exactly|precisely|to\s+be\s+(?:exact|precise))
    | ,?\s+as\s+(?:required|desired|needed|asked|requested|wanted|shown|calculated)(?:\s+above)?
    | ,?\s+(?:and\s+)?that(?:\s+is|['’]s)\s+(?:all|it|the\s+answer)
    | ,?\s+(?:tax\s+included|including\s+(?:the\s+)?[a-z]+)
    | ,?\s+no\s+more(?:,?\s+and|,)\s+no\s+less
    | ,?\s+with\s+(?:none|nothing|no\s+\w+)\s+(?:left(?:\s+over)?|remaining|to\s+spare)
    | ,?\s+with(?:out\s+(?:a|any)|\s+no)\s+(?:remainder|rest)
    | ,\s+(?:just\s+)?like\s+\w+
    | ,\s+(?:which\s+is\s+)?more\s+than\s+enough
    | \s*\((?:rounded|approx\.?|approximately|exact(?:ly)?|(?:final\s+)?answer|ans)\)
    | \s*[✓✔✅👍🎉🙂]\ufe0f?
  )[\s.!]*$""",
  re.I | re.X,
)
# ", and she is happy": what somebody or something is changes no number, unless it is one of these.
AND_IS = re.compile(
  r",?\s+and\s+(?:(?:he|she|they|it|we|everyone)\s+)?"
  r"(?:is|are|was|were|feels?|felt)(?:\s+[a-z]+(?<!ing)){1,5}[\s.!]*$",
  re.I,
)
CHANGES = re.compile(
  rf"\b(?:{quantities.BOUNDS}|too|off|close|far|more|less|fewer|over|before|after|gone|"
  rf"missing|lost|"
  r"sold|eaten|given|taken|stolen|broken|rotten|spoiled|used|short|left|answer|that|"
  rf"{'|'.join(number_words.SPELLED_NUMBERS)}|{'|'.join(quantities.MAGNITUDES)})\b",
  re.I,
)
# In front of a value, these say nothing: "=> 72", "∴ 72", "✅ 72"
OPENING = re.compile(r"\s*(?:=>|[•→⇒∴✓✔✅]\ufe0f?|\\(?:therefore|implies|Rightarrow)\b|->)+\s*")
# "5!" is 120. Behind words the mark only exclaims: "The answer is 72!"
FACTORIAL = re.compile(r"[\d)}\]]\s*!+[\s$.]*$")
GOES_ON_AND_ON = re.compile(
  r",\s*(?:and\s+)?(?:\.\.\.|…|\\[lc]?dots|(?:etc|so\s+on)\b\.?)[\s.$}]*$", re.I
)
# Marked as wrong, negated or struck out: "❌ 72", "!72", "~~72~~", "<s>72</s>", "\cancel{72}"
DENIAL_MARK = re.compile(
  r"[✗✘❌❎🚫👎¬]|^\W*!\s*=?\s*\w|~~|</?(?:s|del|strike)>|\\(?:[xb]?cancel|sout|not)\b", re.I
)
# Said after an answer in any domain, these take it back or leave it open.
SECOND_THOUGHTS = (
  r"scratch\s+that|never\s?mind|just\s+kidding|who\s+knows"
  r"|(?:not|n['’]t)\s+(?:so\s+|really\s+|entirely\s+)?(?:sure|certain)"
  r"|(?:could|may|might)\s+(?:well\s+)?be\s+(?:wrong|mistaken)"
  r"|i\s+(?:do\s+not|don['’]t)\s+know|i\s+(?:doubt|guess)"
)


def without_remarks(text: str) -> str:
  """Cuts "=> 72 apples (8 times 9), of course" to "72 apples"; what is no remark stays."""
  opening = OPENING.match(text)
  if opening:
    text = text[opening.end() :]
  closing = CLOSING.search(text)
  if closing:
    text = text[: closing.start()]
  text = without_note(text)
  being = AND_IS.search(text)
  if being and not CHANGES.search(being.group()):
    text = text[: being.start()]
  return text


def without_note(text: str) -> str:
  """Cuts a note in brackets that says the same value once more, as a sum or in words."""
  noted = NOTE.fullmatch(text)
  if not noted:
    return text
  numbers = re.findall(rf"(?<![\w.])-?(?:{quantities.DIGITS})", noted["said"])
  value = numbers[-1] if numbers else number_words.in_digits(noted["said"])
  said = quantities.read_number(noted["said"]) or quantities.read_number(value or "")
  again = quantities.read_number(noted["note"])
  if said and again and said.amount() == again.amount():
    return noted["said"]
  terms = sums.spoken_sum(noted["note"])
  return noted["said"] if terms and numbers and sums.comes_out(terms, value) else text


def is_factorial(text: str) -> bool:
  """Is "5!" all of it? Behind words the mark only exclaims: "The answer is 5!"."""
  return bool(FACTORIAL.search(text)) and not re.search(r"(?<!\\)\b[a-zA-Z]{2,}", text)


def goes_on(text: str) -> bool:
  """Does a list name not all of its values: "1, 2, 3, …"?"""
  return bool(GOES_ON_AND_ON.search(text))
