"""How far a text reads like language: cheap measures of length, variety, relevance and coherence.

They stand in for a judge where an answer has no right or wrong, so each is built to withhold its
credit from what a policy finds first: one word, a copied question, shuffled keywords, the same
phrase over and over. In reading order: `words_of`; `prose_score`, which discounts the others;
`length_score`, `diversity_score`, `relevance_score`, `copied_share` (`multi_domain` write-up);
`coherence_score` (`four_component` write-up).
"""

import functools
import itertools
import re

from lib import science_checking

MAX_WORDS = 5000  # words of a text that the heuristics look at
# The `multi_domain` write-up's list and the commonest short words, which are no keywords.
FUNCTION_WORDS = frozenset(
  re.findall(
    r"\w+",
    """
    a about after all also am an and any are as at be because been before but by can could did do
    does for from had has have he her him his how i if in into is it its just me more my no not now
    of on one or our out she should so some than that the their them then there these they this to
    too up us was we were what when where which while who will with would you your
    """,
  )
)
# After an article these show that words were strewn in: "the of", "a because".
ARTICLE_BREAKS = FUNCTION_WORDS - {"one", "more", "same", "other", "no", "not", "all"}
# Words that tie a step to the one before; each counts once, however often it stands there.
CONNECTIVES = re.compile(
  r"\b(?:because|since|therefore|thus|hence|so|then|next|first|second|third|finally|however|but"
  r"|if|when|which means|as a result|this means|now|after that)\b",
  re.I,
)
# "Step 2", "2.", a bullet at a line's start, or an ordinal anywhere.
STEPS = re.compile(
  r"^[ \t]*(?:step\s*\d+|\d{1,2}[.)]|[-*•])|\b(?:first|second|third|next|then|finally)\b",
  re.I | re.M,
)
# One word with its inner marks: "don't", "well-known".
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@functools.lru_cache(maxsize=256)  # each component of a reward asks about the same text
def words_of(text: str) -> tuple[str, ...]:
  """The first MAX_WORDS words, in lower case and without punctuation."""
  return tuple(WORD.findall(text[: 8 * MAX_WORDS].lower())[:MAX_WORDS])


def phrases_of(text: str, n: int) -> list[tuple[str, ...]]:
  """All runs of n words: "a b c", 2 → [("a", "b"), ("b", "c")]."""
  words = words_of(text)
  return [words[i : i + n] for i in range(len(words) - n + 1)]


def fresh_share(text: str) -> float:
  """Share of the three-word phrases that are not repeats. Range [0, 1]; 1 for fewer words."""
  triples = phrases_of(text, 3)
  return len(set(triples)) / len(triples) if triples else 1.0


def prose_score(text: str) -> float:
  """How far a text is put together like language. Range [0, 1].

  A fifth of English words are function words, an article stands before what it can, and phrases
  are not repeated. Honest text scores about 1, shuffled keywords near 0.
  """
  words = words_of(text)
  # Of so few words no share says anything; "Jupiter." is no prose, and no salad either.
  if len(words) < 5:
    return len(words) / 5
  function_share = sum(word in FUNCTION_WORDS for word in words) / len(words)
  articles = article_share(words)
  # Half of the articles in wrong places is what chance gives, so it earns nothing.
  return min(1.0, function_share / 0.2) * max(0.0, 2.0 * articles - 1.0) * fresh_share(text)


def article_share(words: tuple[str, ...]) -> float:
  """Share of the articles with a word after them that can follow one; 1 without articles."""
  pairs = itertools.pairwise((*words, "a"))  # an article at the very end breaks off
  after = [following for word, following in pairs if word in science_checking.ARTICLES]
  if not after:
    return 1.0
  return sum(word not in ARTICLE_BREAKS for word in after) / len(after)


def reads_well(reasoning: str) -> float:
  """`prose_score` for reasoning, where numbers take the place of function words. Range [0, 1]."""
  words = words_of(reasoning)
  # "12 + 7 = 19, 19 * 2 = 38" has no function words and is good reasoning.
  number_share = sum(word[0].isdigit() for word in words) / max(1, len(words))
  return max(prose_score(reasoning), min(1.0, 2.0 * number_share) * fresh_share(reasoning))


def length_score(text: str, target: int, shortest: int, longest: int) -> float:
  """1 in [shortest, longest] words, falling to 0 at none and at longest + target. Range [0, 1]."""
  count = len(text.split())
  if count < shortest:
    return count / shortest
  return max(0.0, 1.0 - max(0, count - longest) / target)


def diversity_score(text: str) -> float:
  """Different words, against those expected of a text as long. Range [0, 1].

  Departure: the write-up's unique / total is 1 for any one word and falls with length. This divides
  by the vocabulary of English stories (Heaps' law, 2.2 n^0.75), trusts no text below the write-up's
  minimum of 10 words, and discounts what is not put together like language.
  """
  words = words_of(text)
  count = len(words)
  if count == 0:
    return 0.0
  # 10 words: 10 different ones expected; 100: 70; 1000: 391.
  expected = min(count, 2.2 * count**0.75)
  variety = min(1.0, len(set(words)) / expected)
  trust = min(1.0, count / 10)
  return variety * trust * prose_score(text)


def keywords(text: str) -> set[str]:
  # More than three letters is the write-up's rule.
  return {word for word in words_of(text) if len(word) > 3} - FUNCTION_WORDS


def relevance_score(question: str, reasoning: str) -> float:
  """Share of the question's keywords that the reasoning takes up. Range [0, 1]; 0.5 without any.

  Departures: a copied question earns nothing, as 40% of the reasoning's keywords must be its own,
  in language-like order; and only the question is read, as the prompt's fixed instructions would
  count as keywords.
  """
  asked, used = keywords(question), keywords(reasoning)
  overlap = len(asked & used) / len(asked) if asked else 0.5
  own_share = len(used - asked) / max(1, len(used))
  return overlap * min(1.0, own_share / 0.4) * prose_score(reasoning)


def copied_share(answer: str, question: str) -> float:
  """Share of the answer's five-word phrases that stand in the question. Range [0, 1]."""
  # Five words in a row are rarely chance; names and short idioms of the question are free to use.
  asked = set(phrases_of(question, 5))
  said = phrases_of(answer, 5)
  return sum(phrase in asked for phrase in said) / max(1, len(said))


def coherence_score(reasoning: str) -> float:
  """Step markers 0.4, connectives 0.3, sentences of 3 to 40 words 0.3. Range [0, 1].

  The write-up names the parts, the sizes are ours. Only different markers count, and by how far the
  text reads like language: "Step 1 therefore Step 2 therefore" earns little.
  """
  steps = min(1.0, count_different(STEPS, reasoning) / 3)
  links = min(1.0, count_different(CONNECTIVES, reasoning) / 3)
  lengths = [len(part.split()) for part in re.split(r"[.!?\n]+", reasoning) if part.strip()]
  flow = sum(3 <= length <= 40 for length in lengths) / max(1, len(lengths))
  return (0.4 * steps + 0.3 * links + 0.3 * flow) * reads_well(reasoning)


def count_different(pattern: re.Pattern, text: str) -> int:
  """How many different texts a pattern matches, of its first 500 matches."""
  matches = itertools.islice(pattern.finditer(text), 500)
  return len({match.group().strip().lower() for match in matches})
