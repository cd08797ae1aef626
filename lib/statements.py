r"""Which value a text states as its final answer, read by an allow-list.

A text states a value when its last announcement ("The answer is 72", "#### 72", "\boxed{72}",
"A: 72"), or else its last sentence with a value in it, has one of these shapes:

  72 apples                               a bare value with its unit; a list, an expression
  x = 72, 70 + 2 = 72 apples              the last side of an equation
  The family saves 76 - 48 = 28 if …      a sum that comes out, whatever is said of its result
  Natalia sold 72 clips in total.         subject, a verb of the list, the value, its unit, a tail
  72 clips are left at the end.           the value, its unit, what is said of it
  Total: 72                               a label

Anything else states nothing: "more than 72", "72 or 71", "The answer cannot be 72", "mp3". So does
a statement in whose open places (subject, unit, tail) a denial or doubt stands, a closed class of
words that `quantities` lists.

`final_statement` finds the statement in a text, `value_in` the value in the statement;
`stated_answer` is both.
"""

import re
from typing import NamedTuple

from lib import contract, number_words, quantities, remarks, sums

MAX_VALUE = 300  # characters of one value; longer is no final answer
MAX_SENTENCE = 1000  # characters of a sentence that is taken apart

# A statement that holds one of these is turned into another: "not 72", "72 or 71", "72?"
TURNED = re.compile(rf"\b(?:{quantities.DENIALS}|{quantities.DOUBTS})\b|[≠?]|\\neq?\b|!=", re.I)
# Said after a statement, it takes the statement back: "72. Wait, that is wrong."
TAKEN_BACK = re.compile(
  r"\b(?:wait|wrong|incorrect|false|mistake|actually|sorry|scratch that|never mind|just kidding)\b"
  r"|\bnot (?:really|right|correct|true|sure|the answer)\b|\bno,"
  r"|(?:^|[.!]\s)\s*(?:no|not)\b[^.!]{0,20}[.!]?$"
  r"|\bi (?:do not|don['’]t) know\b|\bi (?:doubt|guess)\b",
  re.I | re.M,
)

# ---- announcements ----
ANSWER_IS = r"""
  (?:\b(?:(?:the|my|our|your|his|her|their|this|its
      |final|correct|right|best|exact|simplified)\s+){0,4}
    answer
    (?:\s+(?:here|then|to\s+(?:the|this|your)\s+(?:question|problem|task)|in\s+\w+
      |would|should|must|will)){0,3}
    \s*(?:
      \b(?:is|was|be|seems\ to\ be|equals|(?:comes|works|turns)\ (?:out\ )?to(?:\ be)?)\b
      | [=:]
    )\s*:?   # "The final answer is:", "Answer: "
  )"""
ANNOUNCEMENT = re.compile(
  rf"""(?P<box>\\?(?:boxed|fbox)\s*\{{)   # \boxed{{72}}
    | (?P<line>\#\#\#\#)                  # GSM8K's last line
    | (?P<tag><answer>)
    | (?P<label>^\s*(?:A\s*:|Ans\b\s*[.:=]))  # "A: 72", "Ans. 72"
    | (?P<phrase>{ANSWER_IS})""",
  re.I | re.M | re.X,
)
LABEL_OF_ANSWER = re.compile(r"^\s*A(?:ns)?\b\s*[.:=]", re.I | re.M)
MAX_LEAD = 100  # characters of an announcement before its "answer"
# The answer of someone else, or one that was left: "The student's answer is", "Previous answer:"
OTHERS_ANSWER = re.compile(
  r"\b(?:previous|earlier|old|other|another|alternative|initial|sample|one"
  r"|(?!(?:what|here|there|that|this|it|let)['’])\w+['’]s)(?:\s+possible)?\s*$",
  re.I,
)
UNDOUBTED = re.compile(r"\bno\s+doubt\s+(?:that\s*)?$", re.I)
# "Twice the answer is 72", "the square of the answer is 72"
MADE_OF_ANSWER = re.compile(r"\b(?:of|twice|thrice|half|double|triple|times)\s*$", re.I)
BOX = r"\\?(?:boxed|fbox)\s*\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
# "\boxed{k = 45} \quad \text{and} \quad \boxed{n = 2}": several boxes are one list
BETWEEN_BOXES = r"(?:[\s$,.;()\[\]]|\\(?:quad|qquad|text\s*\{|[,;()\[\]])|\}|\b(?:and|or)\b)*"
SEVERAL_BOXES = re.compile(rf"{BOX}(?:{BETWEEN_BOXES}{BOX})+", re.I)
BOX_START = re.compile(r"\\?(?:boxed|fbox)\s*(?=\{)", re.I)

# ---- sentences ----
JOINED = re.compile(r"\b(?:and|also|or)\W*$", re.I)
SENTENCE_END = re.compile(r"(?<=[.!?])[\s$]+(?=[A-Z\\$(\"'])")
CLAUSE_START = re.compile(r"[.,;:!?\n](?:\s|$)")
SHOWS_VALUE = re.compile(r"\d|\\(?:sqrt|frac|pi)")
# Two letters or more that are neither a LaTeX command nor the name of a function.
PROSE = re.compile(
  r"(?<![\\a-zA-Z])"
  r"(?!(?:sin|cos|tan|cot|sec|csc|log|ln|exp|mod|gcd|lcm|det|max|min|degrees|in(?=\s*[(\[]))\b)"
  r"(?:[a-zA-Z]{2,}|[^\W\d_a-zA-Zα-ωΑ-Ω]+)"
)
LAYOUT = re.compile(r"\\begin\{(?:\w?matrix|cases|array)")  # values on lines of their own
LIST_WORD = re.compile(r"\b(?:and|or)\b")
DANGLING = re.compile(r"(?:,|\band|\bor)\s*$|^\s*(?:,|and\b|or\b)")
# Where a sentence turns to its conclusion; what stands before is how it got there.
CONCLUSION = re.compile(
  r"[,;:]?\s+(?:so|thus|therefore|hence|(?<!after )giving"
  r"|which (?:gives|means|is|rounds (?:up |down )?to))\b"
  r",?\s+(?!that\b)",
  re.I,
)
# Reasons, and what a noun is said to be: ", because 56 is 7 times 8", ", which are 23 and 29"
REASON = re.compile(r",?\s+because\b|(?<!\band),?\s+since\b|,\s+which\s+(?:are|were)\b", re.I)
# "If each truck carries 20 tons, the total is 300 tons" states the total.
CONDITION = re.compile(
  r"^(?:so|thus|then)?,?\s*if\b(?P<what>[^,]*?)(?:,(?!\d)(?:\s*then\b)?|\bthen\b)\s*", re.I
)
# "If he pays with a 50 dollar bill he will have 20 dollars left"
BARE_CONDITION = re.compile(
  r"^if\s+(?P<what>(?:he|she|they|the|each|every)\s[^,=]*?)\s+"
  r"(?=(?:he|she|they|it)\s+(?:will|would|can|must)\b)",
  re.I,
)
DOUBT = re.compile(rf"\b(?:{quantities.DOUBTS})\b", re.I)
# "the sticks that are not used", "the lights not working" deny nothing of the number.
RELATIVE_DENIAL = re.compile(
  r"\b(?:that|who|which)\s+(?:is|are|was|were|do|does|did|have|has|had|will|would)\s+not\s+\w+"
  r"|\b(?:that|who|which)\s+(?:did|do|does|had|have|has|was|were|are|is)n['’]t\s+[a-z]+"
  r"|\bnot\s+\w+(?:ing|ed)\b"
  rf"|\bunknown(?=\s+\w+\s+(?:is|was|equals)\b)|(?<=\d\s){quantities.ATTRIBUTE}",
  re.I,
)
# Another number that is set against the stated one: ", not 72", "rather than 72 apples".
OTHER_NUMBER = rf"[-+]?(?:{quantities.DIGITS})(?:/\d+)?%?(?:\s[a-z]+){{0,2}}"
AGAINST = re.compile(
  rf",?\s+(?:and\s+)?(?:not|rather\s+than|instead\s+of)\s+(?P<other>{OTHER_NUMBER})\s*$", re.I
)
NOT_BUT = re.compile(
  rf"\bnot\s+{OTHER_NUMBER}[,;.]?\s+(?:but(?:\s+rather)?|rather|it\s+is)\s+(?=[-+]?\d)", re.I
)
# "44 times the weight of the cat, or 44 * 5 = 220 pounds": what is said in words, then in numbers.
IN_NUMBERS = re.compile(
  r"\b(?:times|%\s*of|percent\s+of|half(?:\s+of)?|twice)\s+(?:the|his|her|its|their)\b"
  r"[^=.;]*?,?\s+or\s+(?=[\d.,]+%?\s?[-+*/])",
  re.I,
)
# Said of a sum's result, these deny or restrict something else: "17 students are not on the team",
# "25 miles without stopping", "28 dollars if they choose the other park".
HARMLESS_DENIAL = re.compile(
  r"^(?:\s+[a-z]+){0,6}?\s+(?:(?:are|were|did|do|have|had|will|would|could|can)\s+not"
  r"|without(?=\s+(?!count|includ|consider|add)[a-z]+ing\b)|if(?=\s+(?:he|she|they)\s))"
  r"(?=\s+[a-z]+)",
  re.I,
)
# And the numbers that may follow it: "after 2 years", "more than 2 bagels".
HARMLESS_NUMBER = re.compile(
  r"\b(?:more\s+than|after|in|after\s+\w+ing(?:\s+\w+){1,3}|get)\s+\d[\d,.]*(?=\s+[a-z]+|\s*$)",
  re.I,
)
# ", the game, and the ball" behind "for the rope" names things only.
THINGS = re.compile(
  r"(?<=\w)(?:,\s+(?:and\s+)?(?:the|a|an|his|her|their)(?:\s+[a-z]+){1,2})+\s*$", re.I
)
# Words by which what follows a sum goes on to another value or judges the sum.
GOES_ON = re.compile(
  r"\b(?:answer|right|correct|true|case|result|value|number|solution|but|though|however|although|"
  r"while|and|then|leav\w+|gives?|equals?|is(?!\s+\w+(?:ed|ing|en|ld)\b)|minus|plus|times|squared|"
  r"cubed|too|off|close|short|estimate\w*|ruled|crossed|struck|discarded|dismissed|ignored|"
  r"expected|"
  r"claimed|intended|dis\w+ed|refuted|contradicted|avoided|at\s+(?:least|most)|"
  r"dozen|hundred|thousand|million|billion|half|double|twice)\b",
  re.I,
)
SPELLED = re.compile(rf"\b(?:{'|'.join(number_words.SPELLED_NUMBERS)})\b", re.I)
RELATION = re.compile(r"[<>≤≥≠]|\\(?:leq?|geq?|lt|gt|neq?|in)\b|!=")
EQUALS = re.compile(r"(?<![<>!≠:=])=(?!=)")

# "taller by 72 cm", "It grew by 72"; but "multiplied by 72" and "the year by 72" state nothing
BY_HOW_MUCH = (
  "(?:tall|short|long|old|young|bigg|larg|small|high|low|heavi|light|fast|slow|great|wid|deep|thick"
  "|thinn|rich|poor|farth|furth|clos|cheap|earli|lat|warm|hott|cold|cool|strong|weak)er"
  "|more|less|fewer|increases?|increased|decreases?|decreased|grew|grows|grown|rose|rises|risen"
  "|fell|falls|fallen|dropped|drops|gained|shrank|differs?|differed|up|down|ahead|behind"
)
BY_AMOUNT = re.compile(r"by\s+(?=\d[\d.,]*\s+(?!a\.?m|p\.?m|o['’])[a-z])", re.I)  # "by 72 cm"
# The verbs that state a number, right before it: "has 13 stickers", "will be 12".
VERB = re.compile(
  rf"""\b(?:
    is|are|was|were|(?:will|would|must|should|shall|has\ to|have\ to)\s+be|equals?
  | cost|costs|make|makes|made|total|totals|has|had|have|need|needs|needed|get|gets|got|receives?
  | received|pays?|paid|spends?|spent|earns?|earned|takes?|took|gives?|gave|gives\ us|saves?|saved
  | sells?|sold|buys?|bought|eats?|ate|drinks?|drank|weighs?|weighed|contains?|holds?|lasts?|lasted
  | reaches|reached|leaves?|leaving|left\ with|wins?|won|scores?|scored|reads?|walks?|walked|runs?
  | ran|drives?|drove|travels?|travell?ed|finds?|found|collects?|collected|requires?|owes?|owed
  | uses?|used|sees?|saw|produces?|produced|yields?|keeps?|kept|becomes?|became|bakes?|baked
  | plants?|planted|picks?|picked|catches|caught|grows?|grew|raised?|donates?|donated|charges?
  | charged|works?|worked|studies|studied|sleeps?|slept|lost|loses|gained|gains|cut|cuts|put
  | put\ out
  | puts|copy|copies|writes?|wrote|written|does|did|done|jumps?|jumped|cooks?|cooked|watch|watches
  | watched|orders?|ordered|delivers?|delivered|invites?|invited|visits?|visited|climbs?|climbed
  | throws?|threw|swims?|swam|carry|carries|carried|share|shares|shared|waits?|waited|pack|packs
  | packed|count|counts|counted|answers?|answered|solves?|solved|measures?|measured|return|returns
  | fill|fills|fit|fits|hiked?|hikes|biked?|bikes|cycled?|rode|rides?|swam|flew|sailed|rowed|jogged
  | stays?|stayed|leav(?:es|ing)\s+\w+\s+with
  | sets?(?:\s+(?:it|them))?\s+(?:at|to)
  | serves?|builds?|built|covers?|covered|bring|brings|brought
  | (?:come|comes|came|adds?\ up|amounts?|works?\ out|rounds?|simplif(?:y|ies)|reduces|evaluates)
    \s+(?:out\s+)?to | went\s+(?:up|down)\s+to | equal\ to
  | obtains?|obtained|calculates?|calculated|computes?|computed|(?:ends?|ended)\s+up\s+with
  | (?:{BY_HOW_MUCH})\ by
  )(?:\s+for(?=\s+\d))?\s+(?=\S)""",
  re.I | re.X,
)
# What may stand between the verb and the value and change neither.
FILLER = re.compile(
  r"(?:(?:exactly|definitely|certainly|surely|clearly|obviously|both|just|only|about|around|"
  r"approximately|approx\.?|roughly|precisely|simply|equal\s+to|now|then|"
  r"therefore|thus|also|still|each|all|currently|already|together|"
  r"a\s+(?:grand\s+)?total\s+(?:of|is)|"
  r"an?\s+(?:additional|extra)|another|me|him|her|us|them|you|out|up|in\s+total|:)\s+)*",
  re.I,
)
ONLY = re.compile(
  r"(?:(?:(?:in\s+(?:all|total)|altogether),?|only|exactly|definitely|certainly|surely|clearly|just"
  r"|all|a\s+total\s+of)\s+)?",
  re.I,
)  # "Only 72 remain"
# A number inside a sentence: no part of an expression, a time or a name.
NUMBER_IN_TEXT = re.compile(
  rf"(?P<sign>[+-]?)\s?(?:{quantities.VALUE})"
  r"(?!\d|[_^\\√(]|:\d|(?![mgslLhVWJKN]\b|[a-zA-Z]{2,})[a-zA-Z]"
  r"|\s?[*/^]\s?[\w\\(]|\s?\\[a-zA-Z]|\s?[+=<>±]|\s-?\s?[\d(\\]|-[\d(\\])"
  rf"{quantities.PERCENT}(?P<unit>)",
  re.A,
)
# LaTeX, digits, operators and single letters: "4\sqrt{30}", "3:4", "(x+1)^2"
EXPRESSION_IN_TEXT = re.compile(
  r"(?:\\[a-zA-Z]++|[-\d\s.:+*/^(){}\[\]_]|(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z]))++"
)
HALF_OF_DAY = re.compile(r"\s?[ap]\.?\s?m\b\.?", re.I)
# The tail begins with a word of place, time, measure or reason: "at the party", "each", "tall".
TAIL_START = (
  r"in|inside|at(?!\s+(?:the\s+)?(?:very\s+)?(?:least|most|best|worst|outside)\b)|of|on|for"
  r"|from(?!\s+which)|between|among(?!\s+others)|to(?!\s*[-\d]|\s+the\s+(?:\w+\s+)?power)|"
  rf"by(?!\s*[-\d])|with(?!\s+(?:a\s+)?remainder)|after|before(?!\s+{quantities.CHARGE})|"
  r"per(?!\s+mille)|"
  r"during|each|every|altogether|together|total|overall|apiece|left|over(?!\s*\d)|remaining|long|"
  r"tall|wide|high|deep|old|away|back|ago|later|today|now|that|so|when|a|an|up\s+to"
)
MORE_THAN = r"more|less|fewer|further|\w+(?<!ev)(?<!ov)(?<!numb)er"
TAIL = re.compile(
  rf"(?:\s+(?:{MORE_THAN}))?"
  rf"(?:\s+(?:{TAIL_START})\b[^,;()=<>\\]*|\s+than\b(?!\s+the\s+answer)[^,;()=\d]*"
  r"|\s+as\s+(?:many|much|fast|long|tall|old|big|large|heavy|far|high)\b[^,;()=\d]*)?"
  r"(?:,?\s+(?:altogether|in\s+(?:total|all|dollars)|respectively|overall|on\s+average))?"
  r"(?:\s*\([^()\d]*\))?\s*",
  re.I,
)
UNIT_AND_TAIL = re.compile(rf"(?!{quantities.SHARE}){quantities.UNIT}{TAIL.pattern}", re.I)
# "8 women are left at the party": a unit, then what is said of it. Another number only after a
# word that keeps it apart: "9 multiples of 10 are between 11 and 103".
SAID_OF_IT = re.compile(
  rf"{quantities.JOINT}{quantities.UNIT_WORD}(?:-[a-z]+)*"
  r"(?:\s+(?:(?:of|between|from|in|for|at)\s+\d[\d.]*(?:\s+and\s+\d[\d.]*)?"
  r"|[a-zA-Z'()%-]++))*+\s*",
  re.I,
)
# "Total cost: ", but not "At least: " and "Upper bound: "
LABEL = re.compile(
  r"(?!.{0,60}\b(?:at\s+(?:least|most)|bound|limit|(?:more|less|fewer)\s+than)\b)"
  r"(?!\W*(?:(?:previous|other|another|alternative|ignore)\b[^:]*|min|max|minimum|maximum|"
  r"over|under|above|below|between|upto|up\s+to|approx\w*|around|"
  r"about|estimate\w*|hint|example|given|question|check|ignore\w*)\W*:)"
  r"(?!.{0,60}\bestimate)[^\d=:]{1,60}:\s+(?=\S)",
  re.I,
)
# "3 to 4", "the ratio of cats to dogs is 3 to 4"
RATIO = re.compile(
  r"(?:(?:the|a)\s+)?(?:ratio\b[^\d]{0,60}?\b(?:is|of)\s+)?(?P<first>\d+)\s+to\s+(?P<second>\d+)",
  re.I,
)
# "x = 3 and y = 4" at the end of a sentence
NAMED_VALUES = re.compile(
  r"(?<=\s)[a-z]\s*=\s*[^\s=]+(?:(?:,|,?\s+and)\s+[a-z]\s*=\s*[^\s=]+)+$", re.I
)
IS_THE_ANSWER = re.compile(
  r"\s+(?:is|was)\s+(?:the|my|our)\s+(?:final\s+|correct\s+)?answer\s*", re.I
)
ASSUMED = re.compile(r"(?:let|say|set|put|take)\b", re.I)
# An equation that is still to be solved: "2x", "x + 1", "3x - 4" on its left.
STEP = re.compile(r"-?\d+\s*\*?\s*[a-z]|-?(?:\d+\s*\*?\s*)?[a-z]\s*[-+]\s*\d+|\d+\s*[-+]\s*[a-z]")
# Arithmetic left to the reader: "3 * 4" is not the 12 that was asked for.
UNEVALUATED = re.compile(r"[\s\d.,()]*[\d)]\s*[-+*/^][-+*/^\s\d.,(){}]*")


class Statement(NamedTuple):
  text: str  # what is announced or said, without the announcement
  context: str  # the rest of its clause: "The answer cannot be" before a box, "is wrong" behind it
  after: str  # what the text says behind it
  in_words: bool = False  # "The answer is 5!" exclaims, "#### 5!" is a factorial


def stated_answer(text: str) -> str | None:
  """The final value that a text states, as written; None for none, and for a choice of several."""
  statement = final_statement(text)
  return value_of(statement) if holds(statement) else None


def holds(statement: Statement) -> bool:
  """Is it a statement: not denied or doubted around it, nor taken back behind it?"""
  return not TURNED.search(statement.context) and not TAKEN_BACK.search(statement.after)


def final_statement(text: str) -> Statement:
  """The last announcement with something in it, else the last sentence that shows a value."""
  # GSM8K's calculator notes repeat the sum: "<<6*7=42>>42" → "42".
  text = re.sub(r"<<[^<>\n]*>>", "", text[-contract.MAX_READ :])
  text = re.sub(r"\b(is|was)n['’]t\b", r"\1 not", text, flags=re.I)
  end = len(text)
  for mark in reversed(list(ANNOUNCEMENT.finditer(text, first_announcement(text)))):
    statement = boxed(text, mark) if mark["box"] else announced(text, mark, end)
    if contract.says_something(statement.text):
      return statement
    # An empty announcement ("The answer is:" before a box) is passed over.
    end = mark.start()
  return last_sentence(text)


def first_announcement(text: str) -> int:
  """A place before the first announcement, from where the slow search for it may start."""
  lower = text.lower()
  if len(lower) != len(text):
    return 0  # "İ" has two characters as a small letter
  label = LABEL_OF_ANSWER.search(text)
  found = [lower.find(word) for word in ("boxed", "fbox", "####", "answer")]
  found.append(label.start() if label else -1)
  # "The final simplified answer": four words at most may come before it.
  first = min((place for place in found if place >= 0), default=len(text))
  return max(0, first - MAX_LEAD)


def announced(text: str, mark: re.Match, end: int) -> Statement:
  """The first sentence behind "The answer is", "####", "A:" or <answer>."""
  rest = text[mark.end() : end].split("</answer", 1)[0].strip()
  line = rest.split("\n", 1)[0]
  # "72. It was easy." → "72."
  said = SENTENCE_END.split(line, maxsplit=1)[0]
  context = ""
  if mark["phrase"]:
    before = text[: mark.start()]
    context = UNDOUBTED.sub("", before_clause(before))
    if OTHERS_ANSWER.search(before) or MADE_OF_ANSWER.search(before):
      context += " or"  # "Another answer: 72"
    if JOINED.search(before) and ANNOUNCEMENT.search(re.split(r"[.!?\n]", before)[-1]):
      context += " or"  # "The answer is 71 and the answer is 72"
  return Statement(said, context, rest[len(said) :] + text[end:], bool(mark["phrase"]))


def boxed(text: str, mark: re.Match) -> Statement:
  """What a box holds, or what several boxes side by side hold, with the words between them."""
  inside = braced(text[mark.end() :])
  start, end = mark.start(), mark.end() + len(inside) + 1
  for several in SEVERAL_BOXES.finditer(text):
    if several.start() <= mark.start() < several.end():
      # "\boxed{3} and \boxed{4}" → "\text{3} and \text{4}", read as the list "3 and 4".
      inside = side_by_side(several.group(), inside)
      start, end = several.span()
  after = text[end:]
  # "\boxed{72} is wrong": what follows in the clause counts as well as what precedes.
  same_clause = re.match(r"[^.;!?\n]*\??", after).group()
  return Statement(inside, before_clause(text[:start]) + " " + same_clause, after)


def side_by_side(boxes: str, last: str) -> str:
  """The list that several boxes are, but one value where all of them hold the same."""
  held = {braced(boxes[start.end() + 1 :]) for start in BOX_START.finditer(boxes)}
  return BOX_START.sub(r"\\text", boxes) if len(held) > 1 else last


def before_clause(text: str) -> str:
  """The part of the last clause of `text`: "First 3 + 4 = 7, and it is not" → " and it is not"."""
  text = text[-MAX_VALUE:]
  starts = [match.end() for match in CLAUSE_START.finditer(text)]
  return text[starts[-1] :] if starts else text


def braced(text: str) -> str:
  """What stands before the brace that closes one opened just before `text`; all if none does."""
  text = text[:MAX_VALUE]
  depth = 1
  for index, character in enumerate(text):
    depth += (character == "{") - (character == "}")
    if depth == 0:
      return text[:index]
  return text


def last_sentence(text: str) -> Statement:
  """The last sentence that shows a value, on the last line that does; else the last line."""
  if LAYOUT.search(text) and len(text) <= MAX_VALUE:
    return Statement(text, "", "")  # a matrix has lines of its own
  lines = text.strip().split("\n")
  chosen = len(lines) - 1
  for index in reversed(range(len(lines))):
    if SHOWS_VALUE.search(lines[index]):
      chosen = index
      break
  sentences = SENTENCE_END.split(lines[chosen])
  # "She has 72. Well done!" → "She has 72."
  while len(sentences) > 1 and not SHOWS_VALUE.search(sentences[-1]):
    sentences.pop()
  said = sentences[-1]
  behind = lines[chosen][lines[chosen].rfind(said) + len(said) :]
  return Statement(said, "", "\n".join([behind, *lines[chosen + 1 :]]))


def value_of(statement: Statement) -> str | None:
  text = statement.text
  # "5!!" and "$5!$" stay as they are.
  if statement.in_words and re.search(r"\d!$", text.rstrip()):
    text = text.rstrip()[:-1]
  return value_in(text)


def value_in(statement: str) -> str | None:
  """The value of a statement in one of the shapes of the file's docstring; None in others."""
  if len(statement) > MAX_SENTENCE or remarks.DENIAL_MARK.search(statement):
    return None
  if LAYOUT.search(statement):
    return statement if len(statement) <= MAX_VALUE else None
  if remarks.is_factorial(statement) or remarks.goes_on(statement):
    return None
  if quantities.read_number(statement) is not None:
    return statement
  plain = re.sub(
    r"\b(it|that|this|there|he|she)['’]s\b", r"\1 is", quantities.simplify(statement), flags=re.I
  )
  if plain.endswith("?"):
    return None
  # "* **72**." → "72"
  plain = plain.lstrip(" .,;:*\"'`").rstrip(" .,;:!\\*\"'`")
  plain = remarks.without_remarks(plain)
  clause = conclusion(plain)
  ratio = RATIO.fullmatch(clause)
  if ratio:
    return f"{ratio['first']}:{ratio['second']}"
  # "(1, 2)" and "x = 3 or x = 4" go to the comparison as they are.
  if is_mathematics(clause):
    return clause
  clause = without_contrast(without_condition(clause))
  worked = sum_value(clause)
  if worked is not None:
    return worked
  if TURNED.search(RELATIVE_DENIAL.sub("", without_reasons(clause))):
    return None
  return (
    equation_value(clause)
    or subject_verb_value(clause)
    or value_phrase(clause)
    or value_then_predicate(clause)
    or labelled_value(clause)
  )


def conclusion(sentence: str) -> str:
  """What follows the last "so", "giving" … that is followed by a value: the result."""
  pieces = CONCLUSION.split(sentence)
  while len(pieces) > 1 and not SHOWS_VALUE.search(pieces[-1]):
    if TURNED.search(pieces[-1]):
      return ""  # "It is 72, so that is wrong"
    pieces.pop()
  return re.sub(r"^(?:so|thus|therefore|hence)\b,?\s+", "", pieces[-1], flags=re.I).strip(" ,.;:!")


def without_reasons(clause: str) -> str:
  """Cuts "56 because 56 is 7 times 8" to "56": reasons may name and deny other numbers."""
  for reason in REASON.finditer(clause):
    if SHOWS_VALUE.search(clause[: reason.start()]):
      return clause[: reason.start()]
  return clause


def without_condition(clause: str) -> str:
  """Cuts "If 5 did not grow then he has 25" to "he has 25"; "If I had to guess" stays."""
  condition = CONDITION.match(clause) or BARE_CONDITION.match(clause)
  if not condition or DOUBT.search(condition["what"]):
    return clause
  return clause[condition.end() :]


def without_contrast(clause: str) -> str:
  """Cuts "71, not 72" to "71" and "not 71 but 72" to "72"; "72, not 72" stays."""
  clause = NOT_BUT.sub("", clause)
  contrast = AGAINST.search(clause)
  if not contrast:
    return clause
  said = clause[: contrast.start()]
  other = quantities.read_number(contrast["other"])
  numbers = [match.group() for match in NUMBER_IN_TEXT.finditer(said)]
  if not other or not numbers:
    return clause
  stated = quantities.read_number(numbers[-1])
  return said if stated and stated.value != other.value else clause


def sum_value(clause: str) -> str | None:
  """The result of a sentence's last sum, if the sum comes out and nothing around it turns it.

  A sum that comes out is a strong sign of a conclusion, so more may be said of its result than of
  a bare number: "84 - 63 = 21 melons were not ready" states 21.
  """
  clause = without_reasons(clause)
  clause = clause[match.end() :] if (match := IN_NUMBERS.search(clause)) else clause
  found = list(sums.SUM.finditer(clause))
  if not found:
    return None
  before, after = clause[: found[-1].start()], clause[found[-1].end() :]
  if "=" in after or RELATION.search(clause) or TURNED.search(RELATIVE_DENIAL.sub("", before)):
    return None
  if not sums.comes_out(found[-1]["sum"], found[-1]["value"]):
    return None
  after = HARMLESS_NUMBER.sub("", THINGS.sub("", HARMLESS_DENIAL.sub("", after)))
  if re.search(r"[^a-zA-Z\s'’.-]", after) or SPELLED.search(after):
    return None
  turned = TURNED.search(after) or GOES_ON.search(after)
  return None if turned else found[-1]["value"]


def is_mathematics(text: str) -> bool:
  """No words, but for "and" and "or" between items: a number, an expression, a list, a relation."""
  if not text or DANGLING.search(text):
    return False
  return not PROSE.search(LIST_WORD.sub("", text))


def equation_value(clause: str) -> str | None:
  """The last side that is a value: "x = 72", "70 + 2 = 72 apples"; in "7 = 4 + 3" the first."""
  clause = without_reasons(clause)
  sides = [side.strip() for side in EQUALS.split(clause)]
  if len(sides) < 2 or RELATION.search(clause) or not assigns(sides):
    return None
  named = NAMED_VALUES.search(clause)  # "The solution is x = 3 and y = 4"
  if named:
    return named.group()
  if re.search(r"\b(?:bound|limit|at (?:least|most))\W*$", sides[0], re.I):
    return None
  # "70 + 2 = 72 apples" has its value last, "7 = 4 + 3" first.
  last = value_phrase(sides[-1]) or value_then_predicate(sides[-1])
  first = sides[0] if is_mathematics(sides[0]) else None
  for value in (last, first):
    if value is not None and SHOWS_VALUE.search(value) and not UNEVALUATED.fullmatch(value):
      return value
  return None


def assigns(sides: list[str]) -> bool:
  """Is the last of the sides what the one before it is? Not in "2x = 72", "70 = 72", "Let x = 72".

  "a + b = 72" may be what was asked for.
  """
  if ASSUMED.match(sides[0]) or STEP.fullmatch(sides[-2]):
    return False
  left, right = quantities.read_number(sides[-2]), quantities.read_number(sides[-1])
  return not (left and right and left.exact and right.exact and left.unlike(right))


def subject_verb_value(clause: str) -> str | None:
  """The value behind a verb: "Jimmy needs 20 apples to equal the weight of 28 oranges" → "20"."""
  clause = without_reasons(clause)
  if re.search(r"\banswer\b", clause, re.I):
    return None  # "The answer has 72 digits"
  # From the last verb on: "She had 80, sold 8 and has 72" states 72.
  for verb in reversed(list(VERB.finditer(clause))):
    subject = clause[: verb.start()]
    value = value_phrase(clause[verb.end() :])
    if value is not None:
      # "It is 71 and it is 72" states neither.
      return None if states_another(subject, value) else value
  return None


def states_another(subject: str, value: str) -> bool:
  """Says a clause before another value of the same thing, as in "It is 71 and it is 72"?"""
  for verb in re.finditer(r"\b(?:is|are|be)\s+(?=-?\d)", subject):
    number = NUMBER_IN_TEXT.match(subject, verb.end())
    if number and number.group().strip() != value:
      return True
  return False


def value_phrase(text: str) -> str | None:
  """The value at the start of `text`, where only its unit and a tail follow; None otherwise."""
  text = text[FILLER.match(text).end() :].strip()
  if not text or len(text) > MAX_SENTENCE:
    return None
  if quantities.read_number(text) is not None or is_mathematics(text):
    return text
  number = NUMBER_IN_TEXT.match(text)
  if number:
    if not UNIT_AND_TAIL.fullmatch(text, number.end()):
      return None
    return with_magnitude(number.group().strip(), text[number.end() :])
  expression = EXPRESSION_IN_TEXT.match(text)
  if expression and SHOWS_VALUE.search(expression.group()):
    value = expression.group().rstrip()
    half = HALF_OF_DAY.match(text, len(value))
    if half:  # "3:45 pm" is no "3:45 am"
      value = text[: half.end()]
    return value if UNIT_AND_TAIL.fullmatch(text, len(value)) else None
  return spelled_value(text)


def spelled_value(text: str) -> str | None:
  """A number in words: "three apples in total" → "3", "two thirds of the cake" → "2/3"."""
  written = number_words.in_digits(text)
  if written is None or written == text:
    return None
  if any(map(number_words.changes_number, written.lower().split()[1:4])):
    return None  # "one in five"
  return value_phrase(written)


def with_magnitude(number: str, rest: str) -> str | None:
  """Of 2 "dozen eggs in total" → "2 dozen", which is 24; None for "2 hundred five"."""
  magnitude, *others = rest.strip(" -").lower().split() or [""]
  if quantities.FRACTION_WORD.fullmatch(magnitude):
    return None
  if magnitude not in quantities.MAGNITUDES:
    return number
  if others and (others[0] == "and" or number_words.changes_number(others[0])):
    return None
  return f"{number} {magnitude}"


def value_then_predicate(clause: str) -> str | None:
  """The value of "8 women are left at the party" and "72 is the answer", not of "72 is wrong"."""
  clause = without_reasons(clause)
  clause = clause[ONLY.match(clause).end() :]
  clause = BY_AMOUNT.sub("", clause) if clause[:2] in ("by", "By") else clause
  number = NUMBER_IN_TEXT.match(clause)
  if not number:
    return None
  rest = clause[number.end() :]
  shapes = (UNIT_AND_TAIL, SAID_OF_IT, IS_THE_ANSWER)
  if not any(shape.fullmatch(rest) for shape in shapes):
    return None
  return with_magnitude(number.group().strip(), rest)


def labelled_value(clause: str) -> str | None:
  """The value behind a label: "Total cost: 72 dollars" → "72"."""
  label = LABEL.match(clause)
  return value_phrase(clause[label.end() :]) if label else None
