r"""Is a science answer right? An option by letter or text where choices are known, else the text.

The whole answer must be the option or the text, or a short announcement of it: "B", "(B) Jupiter",
"The answer is B because …", "\boxed{C: text}", "D, not B", "It is not B, the answer is D". Two
options ("A or B"), a letter with another option's text and "not B" choose nothing.
"""

import functools
import itertools
import re
import unicodedata

from lib import contract, math_checking, measures, quantities, remarks

ARTICLES = {"a", "an", "the"}
SPACE_AND_MARKUP = " \n*_\"'`.!$"  # around a bare answer
TEXT_COMMAND = re.compile(r"\\?\b(?:boxed|fbox|text(?:bf|it|rm)?|mathrm|mathbf)\s*\{([^{}]*)\}")

RAISED = re.compile(r"[⁺⁻⁰¹²³⁴-⁹]+")
POWER_OF_TEN = re.compile(r"[x×*·]\s*10\s*\^?\{?\s*[-−⁻]?[\d⁰¹²³⁴-⁹]+\}?")

SURELY = (
  r"clearly|definitely|certainly|obviously|undoubtedly|surely|absolutely|for\s+sure|of\s+course"
  r"|without\s+(?:a\s+|any\s+)?doubt|(?:there\s+is\s+)?no\s+doubt"
)
# "the answer is" in the languages that models slip into; a denial between its words is no match
FOREIGN = (
  r"la\s+respuesta(?:\s+correcta)?\s+es|die\s+(?:richtige\s+)?antwort\s+ist"
  r"|la\s+(?:bonne\s+)?réponse\s+est|(?:正确)?答案是"
)
KIND = r"(?:answer|option|choice|letter|pick)(?:\s+here|\s+to\s+(?:the|this)\s+question)?"
IS = r"(?:is(?:\s+undoubtedly)?|would\s+be|should\s+be|must\s+be|has\s+to\s+be|seems\s+to\s+be)"
AMONG = (
  r"(?:(?:out\s+)?of|among)\s+(?:these|the\s+(?:four|options|choices)),\s+|only\s+"
  rf"|(?:{SURELY})[,:]?\s+"
)
# "The final answer is: ", "So the correct option is ", "It's ", "I choose ", "Antwort: "
LEAD_IN = re.compile(
  rf"""\A\W{{0,3}}(?:(?:so|thus|therefore|hence)\W+|{AMONG})?
  (?:
      (?:(?:the|my|our)\s+)?(?:only\s+)?(?:(?:final|correct|right|best|most\s+likely)\s+)?
      {KIND}(?:\s+{IS})?(?:\s*[:=–-]?\s+|\s*[=:])(?=\S)
    | (?:{FOREIGN})\s*
    | (?:(?:my|final)\s+)?(?:answer|pick|ans|antwort|respuesta|réponse|risposta|resposta|lösung
      |solution|答案)\s*[:：]\s*
    | (?:so|thus|therefore|hence)\W+(?=\S)
    | it(?:\s+is|['’]s|\s+must\s+be|\s+has\s+to\s+be)\s+
    | (?:(?:i|we)(?:['’]d|\s+would)?\s+)?(?:choose|pick|select|go\s+with)\s+
    | i(?:['’]d|\s+would)?\s+(?:think|believe)\s+(?:it(?:\s+is|['’]s)\s+)?
    | i(?:\s+am|['’]m)\s+(?:sure|confident|certain)\s+(?:that\s+)?
      (?:the\s+answer\s+is|it(?:\s+is|['’]s))\s+
    | (?<=\s)(?=\S)  # only those words of the first line
  )""",
  re.I | re.X,
)
# An announcement at the start of a line, a sentence or a clause; the last one counts.
ANNOUNCED = re.compile(
  r"""(?:\A|(?<=[.,;:!?\n])|(?=\b(?:so|thus|therefore|hence)\b))\s*\W{0,5}
  (?:(?:so|thus|therefore|hence|and|but)\W+)?
  (?P<said>
      (?:(?:the|my|our)\s+)?(?:(?:final|correct|right|best)\s+)?(?:answer|option|choice)
      \s+(?:is|would\s+be|must\s+be|should\s+be)\s*:?\s+(?=\S)
    | (?:final\s+|correct\s+)?
      (?:answer|ans|antwort|respuesta|réponse|risposta|resposta|lösung|答案)\s*[:：]\s*(?=\S)
  )""",
  re.I | re.X,
)
LETTER = r"(?:option\s+|choice\s+)?[(\[]?\s*(?P<letter>[A-Za-z]|[1-9])\s*[)\]]?"
# "B", "(B) Jupiter", "B: Jupiter", "Option B - Jupiter"
LETTER_AND_TEXT = re.compile(
  rf"{LETTER}[.:,]*(?:\s*(?:->|[-–—:.)=→])\s*|\s+|$)(?P<text>.*)", re.I | re.S
)
# "D, not B", "D (not B)", "D rather than B", "Venus, not Mars"
NOT_ANOTHER = re.compile(
  rf"(?P<said>.+?)(?:,\s*|\s+\(?)(?:and\s+)?(?:not|rather than|instead of)\s+"
  rf"(?:{LETTER}(?:(?:\s*,|\s*,?\s*(?:or|and|nor))\s*[(\[]?[A-Za-z1-9][)\]]?)*\W*"
  r"|(?P<text>.+))",
  re.I | re.S,
)
# "Not A, so", "It is not A,", "A is wrong, so" before an announcement
OTHER_DENIED = re.compile(
  r"(?:\bnot\s+(?:option\s+)?\S+|\b[A-Z]\s+(?:is|was)\s+(?:not\s+)?\w+)(?:,?\s+so)?\s*$", re.I
)
TEXT_AND_LETTER = re.compile(r"(?P<text>.+?)\s*[(\[](?P<letter>[A-Za-z1-9])[)\]]", re.S)
REASON = re.compile(r"[,;]?\s+(?:because|since|as\s+(?:it|they|the|this))\b|,\s+which\b", re.I)
IS_RIGHT = re.compile(
  r"\s+is\s+(?:(?:the\s+)?(?:only\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice|"
  r"one))?|true"
  rf"|the\s+answer)\W*\Z|\s+(?:it\s+is|only|alone)\W*\Z|,?\s+(?:{SURELY})\W*\Z",
  re.I,
)
SENTENCE_END = re.compile(r"(?<=[.!])\s+(?=[A-Z(])|\n+")
# "Not A but B", "The answer is not A, it is B": B is what is said
NOT_BUT = re.compile(
  rf"\bnot\s+{LETTER.replace('letter', 'other')}[,;.]?\s+(?:but|rather|it(?:\s+is|['’]s))\s+", re.I
)
SO = re.compile(r"[\s,;:]*(?:\b(?:so|thus|therefore|hence|and|but)\b)?[\s,;:]*\Z", re.I)
HTML = re.compile(r"</?[a-z]{1,6}>", re.I)
DENIED = re.compile(rf"\b(?:{quantities.DENIALS}|{quantities.DOUBTS})\b", re.I)
TAKEN_BACK = re.compile(
  r"\b(?:wait|hmm+|actually|sorry|or|maybe|perhaps|also|instead|rather)\b|\bno,"
  rf"|\b(?:{remarks.SECOND_THOUGHTS})\b|\A\W*(?:no|not|wrong|incorrect|false)\b\W*\Z",
  re.I,
)


def science_correct(answer: str, truth: str, metadata: dict) -> bool:
  """`truth` is a text, or an option's label or text where metadata["choices"] lists them."""
  answer = contract.answer_part(answer)
  choices = read_choices(metadata)
  right = chosen_option(truth, choices)
  if right is not None:
    return right == stated_option(answer, choices)
  return same_text_or_quantity(answer, truth)


# ---- without options ----


def same_text_or_quantity(answer: str, truth: str) -> bool:
  """The same words, or the same number with the same unit; a reason behind them changes nothing."""
  # "The Mitochondria." and "mitochondria" are one text.
  wanted = normalize(truth)
  if not wanted or remarks.DENIAL_MARK.search(answer):
    return False
  if answer == truth:
    return True
  bare = strip_lead_in(unwrap(answer))
  forms = {normalize(text) for text in (answer, bare, REASON.split(bare, maxsplit=1)[0])}
  if wanted in forms:
    return True
  right = quantities.read_number(truth)
  said = quantities.read_number(bare) if right else None
  if not said or not math_checking.same_number(said, right):
    return False
  # "5 g" is no "5 kg": units are never converted.
  return unit_of(bare) == unit_of(truth)


def unit_of(text: str) -> str:
  """What is left without the number: "9.8 m/s²" → "m s2"."""
  plain = POWER_OF_TEN.sub(" ", re.sub(r"\\[,;:! ]|~", " ", unwrap(text)))
  unit = re.sub(r"(?<![a-zA-Z^²³])[-+]?[\d.,/]*\d", " ", plain).replace("percent", "%")
  return measures.measure(quantities.simplify(unit).strip(" .")) or normalize(unit)


@functools.lru_cache(maxsize=16384)  # a row's options and truth come back with every response
def normalize(text: str) -> str:
  """Lower-case words without punctuation and articles: "The Mitochondria." → "mitochondria".

  Powers stay apart from their base ("10⁵" is no "105") but may be written either way ("m/s²",
  "m/s^2"); so do signs ("Na-" is no "Na").
  """
  text = re.sub(r"\s+(?=\^)", "", RAISED.sub(r"^\g<0>", text))
  text = unicodedata.normalize("NFKC", text).replace("−", "-").casefold()
  text = re.sub(r"(?<=[^\W\d])\^\{?([\d+-]+)\}?", r"\1", text)  # "s^2" → "s2", but "10^5" → "10 5"
  text = re.sub(r"(?<=[^\W\d_])_\{?(\d+)\}?", r"\1", text)  # "CO_{2}" → "CO2"
  text = re.sub(r"(?<=\w)['’](?=\w)", "", text)
  words = re.findall(r"\w+|[+%=<>≤≥]|-(?=\d)|(?<=\w)-(?!\w)", text)
  return " ".join([word for word in words if word not in ARTICLES] or words)


def unwrap(text: str) -> str:
  r"""What "\boxed{\text{C}}" holds, without the markup around it."""
  # "\boxed{\text{C}}" → "\text{C}" → "C"
  for _ in range(3):  # boxed, text, bold within another
    text = TEXT_COMMAND.sub(r" \1 ", text)
  return text.strip(SPACE_AND_MARKUP)


def strip_lead_in(text: str) -> str:
  return LEAD_IN.sub("", text, count=1).strip(SPACE_AND_MARKUP)


# ---- with options ----


def read_choices(metadata: dict) -> dict[str, str]:
  """Normalized text by lower-case label.

  metadata["choices"] may be a list of texts (labelled A, B, …), a list of {"label", "text"},
  a dict of label → text, or ARC's {"text": […], "label": […]}.
  """
  choices = metadata.get("choices") or []
  if isinstance(choices, dict) and "text" in choices:
    # Labels may be missing; those choices get A, B, … below.
    pairs = list(itertools.zip_longest(choices.get("label", []), choices["text"]))
  elif isinstance(choices, dict):
    pairs = list(choices.items())
  else:
    pairs = [
      (choice.get("label"), choice.get("text", "")) if isinstance(choice, dict) else (None, choice)
      for choice in choices
    ]
  return {
    str(label or chr(ord("a") + index)).casefold(): normalize(str(text))
    for index, (label, text) in enumerate(pairs)
  }


def stated_option(answer: str, choices: dict[str, str]) -> str | None:
  """The text of the one option that an answer states; None for none, two, and a denied one."""
  if remarks.DENIAL_MARK.search(answer) or "≠" in answer:
    return None
  lines = [" ".join(line.split()) for line in answer.splitlines()]
  answer = unwrap("\n".join(line for line in lines if line))  # no runs of space to search through
  # "The answer is:" and the option on a line of its own; but not "Answer:\nAnswer: B"
  answer = re.sub(r":\n(?![^\n]*:)", ": ", answer)
  whole = chosen_option(answer, choices)
  if whole is not None:  # an option's own text may hold anything: "None of these", "Mars and Venus"
    return whole
  answer = NOT_BUT.sub("", re.sub(r"\bisn['’]t\b", "is not", HTML.sub("", answer)))
  before = ""
  announcements = list(ANNOUNCED.finditer(answer))
  if announcements:
    start = announcements[-1].start("said")
    before = answer[:start]
    if DENIED.search(OTHER_DENIED.sub("", before_comma(before))):
      return None
    answer = answer[start:]
  # "B. It is a gas." says B; "B. C." chooses twice.
  said, *others = SENTENCE_END.split(answer)
  chosen = option_of_sentence(strip_lead_in(said), choices)
  # A later sentence may explain, but not take back what was chosen.
  if any(TAKEN_BACK.search(other) for other in others):
    return None
  # "C. The answer is B." chooses two, but a list of all options chooses none.
  elsewhere = options_chosen([*clauses(before), *others], choices)
  listed = elsewhere >= set(choices.values())
  return chosen if listed or elsewhere <= {chosen} else None


def clauses(text: str) -> list[str]:
  """The sentences before an announcement, and what "C, so the answer is B" has before its "so"."""
  return [SO.sub("", sentence) for sentence in SENTENCE_END.split(text)]


def options_chosen(sentences: list[str], choices: dict[str, str]) -> set[str]:
  """What each of these sentences would choose by itself."""
  chosen = {option_of_sentence(strip_lead_in(sentence), choices) for sentence in sentences}
  return chosen - {None}


def before_comma(text: str) -> str:
  """The sentence that an announcement stands in, as far as it: "It is not B"."""
  return re.split(r"[.!?\n]", text.rstrip(" ,;:"))[-1]


def option_of_sentence(said: str, choices: dict[str, str]) -> str | None:
  said = REASON.split(said, maxsplit=1)[0].strip(SPACE_AND_MARKUP)
  for shape in (said, IS_RIGHT.sub("", said)):
    chosen = chosen_option(shape, choices)
    if chosen is not None:
      return chosen
  # "D, not B" → D; "D, not D" is no answer.
  against = NOT_ANOTHER.fullmatch(said)
  if not against:
    return None
  chosen = chosen_option(against["said"], choices)
  other = chosen_option(against["letter"] or against["text"], choices)
  if against["text"] and other is None:
    return None  # "D, not entirely"
  return chosen if chosen != other else None


def chosen_option(answer: str, choices: dict[str, str]) -> str | None:
  """The option that `answer` is, by text or letter or both; None where the two differ."""
  said = normalize(answer)
  answer = answer.strip(SPACE_AND_MARKUP)
  if answer.startswith("a ") and said in choices.values():
    return said  # "a glass rod" is no "A: glass rod"
  match = LETTER_AND_TEXT.fullmatch(answer) or TEXT_AND_LETTER.fullmatch(answer)
  if match:
    text, rest = choices.get(match["letter"].casefold()), normalize(match["text"])
    if text is not None and not rest:
      # "B (?)" is in doubt.
      return text if "?" not in match["text"] else None
    # "B: Mars rock", where B is Jupiter, chooses nothing.
    if text is not None and rest in choices.values():
      return text if rest == text else None
  return said if said in choices.values() else None
