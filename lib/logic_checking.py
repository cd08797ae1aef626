"""Is a yes-or-no answer right? Read by an allow-list: what is no plain yes or no states neither.

A sentence states a verdict when it is the word itself ("Yes.", "no, they did not") or a short
announcement of it ("The answer is yes", "So, no", "It is true"). "I have no idea", "No one knows",
"There is no way to tell", "I cannot say yes" and "It is false that they could not" are none of
these. A text whose sentences state both states nothing.
"""

import re

from lib import contract, quantities, remarks

VERDICTS = {"yes": True, "true": True, "no": False, "false": False}
# As people say them; "correct", "y" and "of course" alone may answer something else.
VERDICTS |= {"yeah": True, "yep": True, "yup": True, "nope": False, "nah": False}
VERDICT = rf"(?P<verdict>{'|'.join(VERDICTS)})"

# What may come before the word: "So, ", "The final answer is: ", "I would say ", "It is "
LEAD = r"""
  (?:(?:(?:based\ on|given|considering|according\ to|after)\b[^.,;:!?]{1,80}|in\ fact|actually|well
      |hmm+|surely|unfortunately|sadly|without\ (?:a\ |any\ )?doubt|there\ is\ no\ doubt)[,:]\s+)?
  (?:(?:so|thus|therefore|hence|then|overall|finally|ultimately|clearly|to\ conclude
      |in\ (?:short|conclusion|summary))\b\W*)?
  (?:
      (?:(?:the|my|our)\s+)?(?:(?:final|correct|right|short)\s+)?answer
      (?:\s+to\s+(?:the|this)\s+question)?\s*
      (?:\b(?:is|would\s+be|must\s+be|should\s+be)\b|[:=])\s*:?\s*
    | (?:it|this|that|(?:the|this|that)\s+(?:statement|claim|sentence|conclusion))\s*
      (?:is|['’]s|must\s+be)\s+
      (?:(?:definitely|certainly|clearly|indeed)\s+)?(?=true|false)
    | i(?:\s+would|['’]d)?\s+(?:say|answer|think|believe|conclude)\s*:?\s+(?:that\s+)?
      (?:(?:the\s+answer|it)\s+is\s+)?
    | (?:(?:my|final)\ )?(?:answer|a|verdict|conclusion)\s*:\s*
  )?
  (?:(?:definitely|certainly|absolutely|clearly)\b\W*)?"""
# What may come behind it: nothing, a sentence of its own, a reason, or the verdict said again.
BEHIND = r"""(?:
    \s*(?:,?\s+indeed|,?\s+of\ course)?[\s.!]*[✓✔✅👍]?\ufe0f?\s*$
  | \s*[,.;:!—–-]+\s*(?P<rest>.*)
  | \s*(?P<reason>\(.*|(?:because|since|as)\b.*)
  | \s+(?P<again>(?:they|it|he|she|you|we|this|that|there|one)\s+(?:is|are|was|were|do|does|did|can|
      could|would|will|has|have|had|should)(?:n['’]t|\s?not)?)\s*[.!]?$
  )"""
STATED = re.compile(
  rf"\W*{LEAD}[\"'(\[]*{VERDICT}\b(?!-\w)[*_\"'`)}}\]$]*{BEHIND}", re.I | re.X | re.S
)
# Said behind the verdict, these must agree with it: "Yes, they did not" states neither.
SAID_AGAIN = re.compile(
  r"\s*(?:they|it|he|she|you|we|this|that|there|one)\s+(?P<never>never\s+)?"
  r"(?:is|are|was|were|do|does|did|can|could|would|will|ca|wo|has|have|had|should)"
  r"(?P<not>n['’]t|\s?not)?\s*[.!]?",
  re.I,
)
JUDGED = re.compile(
  r"\s*(?:that|it|this)(?:\s+is|['’]s|\s+was)\s+(?P<not>not\s+)?"
  r"(?:(?P<right>right|correct|true|so)|wrong|incorrect|false|untrue)\s*[.!]?"
  r"|\s*(?:(?P<fine>correct|right)|incorrect|wrong)\s*[.!]?",
  re.I,
)
# The verdict by a verb alone: "It would not.", "He could not have", "They did."
BY_VERB = re.compile(
  r"\W*(?:they|it|he|she|you|we|there)\s+"
  r"(?:is|are|was|were|do|does|did|can|could|would|will|wo|ca|has|have|had)"
  r"(?P<not>n['’]t|\s?not)?(?:\s+(?:have|be|have\s+been))?\s*[.!]?",
  re.I,
)
DENIED = re.compile(r"\bnot\b|n['’]t\b", re.I)
# A verdict inside a sentence. "No" is one only where nothing it could belong to follows.
WORD_OF_VERDICT = re.compile(
  r"(?P<not>\b(?:not|never|\w+n['’]t)\s+)?"
  r"\b(?P<verdict>yes|true|false|no(?=\s*(?:[,.;:!?)]|$)))\b(?!-)",
  re.I,
)
# What "true" and "false" are said of here is something else: "because it was not true of whales",
# "It is true that birds fly, but".
OF_SOMETHING_ELSE = re.compile(
  r"\b(?:(?:because|since|as|although|though)\b[^.!?\n]*|"
  r"it\s+is\s+true\s+that\b[^.!?\n]*,\s+but\b)",
  re.I,
)
TRUE_OR_FALSE = re.compile(r"\b(?:true|false)\b", re.I)
UNDECIDED = re.compile(
  r"^\W*no\.?\s?\d+\W*$"  # "No. 5"
  r"|\b(?:maybe|perhaps|possibly|unclear|unsure|uncertain|unknown|depends|guess(?:ing)?)\b"
  r"|\bhard to say\b"
  r"|\b(?:no idea|no way to (?:know|tell|say)|unknowable)\b"
  r"|\b(?:no one|nobody)\s+(?:can |could )?(?:knows?|tell|say)\b"
  r"|\b(?:i|we|one)\s+(?:do not|don['’]t|cannot|can['’]t|could not|couldn['’]t)\s+(?:\w+\s+)?"
  r"(?:know|tell|say|decide|determine)\b|\bor\s+(?:maybe\s+)?(?:yes|no|true|false)\b"
  rf"|\b(?:{remarks.SECOND_THOUGHTS})\b|\bwait\W*$",
  re.I,
)
# Right behind a verdict, these make half of it: "Yes, if it rains", "No, in theory", "Yes, kind of"
QUALIFIED = re.compile(
  rf"\W*(?:(?:but\s+)?(?:only|{quantities.DOUBTS}|mostly|partly|partially|theoretically|unless"
  r"|provided|likely|under|wait|as\s+if|said|i\s+suppose)\b|most\s+likely\b"
  r"|on\s+condition\b|(?:up\s+)?to\s+(?:some|a)\b|in\s+(?:part|theory|principle)\b"
  r"|in\s+(?:some|certain|most|many|a)\s+\w+\W*$|at\s+times\b|occasionally\b|somewhat\b"
  r"|(?:kind|sort)\s+of\b|more\s+or\s+less\b|when(?:ever)?\s|except|excluding|could\s+be\W*$"
  r"|kidding\b|with\s+(?:\w+\s+)?(?:exceptions?|caveats?|reservations?)\b|n/a)",
  re.I,
)
# And these a yes alone: "No, never." underlines its no.
DENYING = re.compile(
  r"\W*(?:not(?:\s+(?:really|exactly|quite|entirely))?\W*$|(?:never|hardly|nope|untrue)\W*$)", re.I
)
MARKUP = re.compile(r"\\?(?:boxed|fbox|text(?:bf|it|rm)?|mathrm)\s*(?=\{)|[*_`$\\{}]|</?\w+>")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


def logic_correct(answer: str, truth: str) -> bool:
  """`truth` is yes, no, true or false; the answer may be a sentence or a whole response."""
  said = stated_verdict(contract.answer_part(answer))
  return said is not None and said == stated_verdict(truth)


def stated_verdict(text: str) -> bool | None:
  """The yes or no that a text states; None for neither, for both and for doubt."""
  # Every truth, and most answers, are the word alone.
  word = VERDICTS.get(text.strip().rstrip(" .!").lower())
  if word is not None:
    return word
  denied = remarks.DENIAL_MARK.search(text)
  text = MARKUP.sub("", text).strip()
  # Doubt anywhere outweighs a yes: "Yes, or maybe no".
  if UNDECIDED.search(text):
    return None
  sentences = [sentence for sentence in SENTENCE_END.split(text) if re.search(r"\w", sentence)]
  if not sentences or "?" in sentences[-1]:
    return None
  stated = {sentence_verdict(sentence) for sentence in sentences} - {None}
  # "Birds lay eggs. Yes." and "Yes. Birds lay eggs." but not a yes amid other sentences.
  ends = [sentence_verdict(sentences[0]), sentence_verdict(sentences[-1])]
  if len(stated) != 1 or ends == [None, None]:  # the verdict comes first or last
    return None
  verdict = stated.pop()
  if denied and verdict:
    return None  # "❌ Yes"; "❌ No" underlines its no
  if not all(agrees(sentence, verdict) for sentence in sentences[1:]):
    return None  # "Yes. That is wrong."
  return verdict if verdicts_within(text) <= {verdict} else None


def sentence_verdict(sentence: str) -> bool | None:
  """The verdict of one sentence: "No, they did not" → False, "No one knows" → None."""
  if "?" in sentence:
    return None
  by_verb = BY_VERB.fullmatch(sentence.strip())
  if by_verb:
    return not by_verb["not"]
  match = STATED.fullmatch(sentence.strip())
  if not match:
    return None
  verdict = VERDICTS[match["verdict"].lower()]
  if match["again"] and bool(DENIED.search(match["again"])) == verdict:
    return None  # "Yes they did not"
  rest = match["rest"] or match["reason"] or ""
  if verdict and DENYING.match(rest):
    return None
  return verdict if agrees(rest, verdict) and not QUALIFIED.match(rest) else None


def agrees(rest: str, verdict: bool) -> bool:
  """Does what is said behind a verdict leave it? "They did not" behind a yes does not."""
  again = SAID_AGAIN.fullmatch(rest)
  if again:
    return verdict != bool(again["not"] or again["never"])
  judged = JUDGED.fullmatch(rest)
  if not judged:
    return True
  return verdict == (bool(judged["right"] or judged["fine"]) != bool(judged["not"]))


def verdicts_within(text: str) -> set[bool]:
  """Every verdict that a text mentions, "not true" as False."""
  found = set()
  text = OF_SOMETHING_ELSE.sub(lambda reason: TRUE_OR_FALSE.sub("", reason.group()), text)
  for match in WORD_OF_VERDICT.finditer(text):
    verdict = VERDICTS[match["verdict"].lower()]
    found.add(not verdict if match["not"] else verdict)
  return found
