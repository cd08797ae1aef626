"""TODO-DOC prose."""

import functools
import itertools
import re

from lib import checking

# ------------------------------------------------------------------------------------------------- heuristics of a text
MAX_WORDS = 5000  # words of a text that the heuristics look at
# Seed 000's list and the commonest short words, which never count as keywords anyway.
FUNCTION_WORDS = frozenset(
  re.findall(
    r"\w+",
    """
    a about after all also am an and any are as at be because been before but by can could did do does for from had has have he
    her him his how i if in into is it its just me more my no not now of on one or our out she should so some than that the
    their them then there these they this to too up us was we were what when where which while who will with would you your""",
  )
)
ARTICLE_BREAKS = FUNCTION_WORDS - {"one", "more", "same", "other", "no", "not", "all"}
CONNECTIVES = re.compile(
  r"\b(?:because|since|therefore|thus|hence|so|then|next|first|second|third|finally|however|but|if|when"
  r"|which means|as a result|this means|now|after that)\b",
  re.I,
)
STEPS = re.compile(
  r"^[ \t]*(?:step\s*\d+|\d{1,2}[.)]|[-*•])|\b(?:first|second|third|next|then|finally)\b",
  re.I | re.M,
)


@functools.lru_cache(maxsize=256)
def words_of(text: str) -> tuple[str, ...]:
  return tuple(re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text[: 8 * MAX_WORDS].lower())[:MAX_WORDS])


def phrases_of(text: str, n: int) -> list[tuple[str, ...]]:
  return list(zip(*(words_of(text)[i:] for i in range(n))))


def length_score(text: str, target: int, shortest: int, longest: int) -> float:
  """1 inside [shortest, longest] words, falling to 0 at 0 and at longest + target words (seed 000). Range [0, 1]."""
  n = len(text.split())
  return n / shortest if n < shortest else max(0.0, 1.0 - max(0, n - longest) / target)


def fresh_share(text: str) -> float:
  """Share of the three-word phrases that are not repeats. Range [0, 1]."""
  triples = phrases_of(text, 3) or [()]
  return len(set(triples)) / len(triples)


def prose_score(text: str) -> float:
  """How far a text is put together like language: a fifth of its words are function words, an article stands before what it
  can, three-word phrases are not repeated. Honest text scores about 1, shuffled keywords near 0. Range [0, 1].
  """
  words = words_of(text)
  if len(words) < 5:
    return len(words) / 5
  share = sum(w in FUNCTION_WORDS for w in words) / len(words)
  after = [b for a, b in zip(words, (*words[1:], "a")) if a in checking.ARTICLES]
  kept = sum(w not in ARTICLE_BREAKS for w in after) / len(after) if after else 1.0
  return min(1.0, share / 0.2) * max(0.0, 2.0 * kept - 1.0) * fresh_share(text)


def reads_well(reasoning: str) -> float:
  """`prose_score` for reasoning, where numbers and formulas take the place of function words. Range [0, 1]."""
  words = words_of(reasoning)
  numbers = sum(w[0].isdigit() for w in words) / max(1, len(words))
  return max(prose_score(reasoning), min(1.0, 2.0 * numbers) * fresh_share(reasoning))


def diversity_score(text: str) -> float:
  """Lexical variety. Range [0, 1]."""
  words = words_of(text)
  n, unique = len(words), len(set(words))
  if not n:
    return 0.0
  return min(1.0, unique / min(n, 2.2 * n**0.75)) * min(1.0, n / 10) * prose_score(text)


def relevance_score(question: str, reasoning: str, formula: str = "guarded") -> float:
  """Share of the question's keywords that the reasoning takes up. Range [0, 1]; 0.5 where it has no keyword (seed 000). "seed"
  pays a copied question in full; the default wants words of its own too, in language-like order. Departure: the question alone
  is read, as the whole prompt's fixed instructions would count as keywords.
  """
  split = (lambda text: text.lower().split()) if formula == "seed" else words_of
  asked, used = (
    {w for w in split(text) if len(w) > 3} - FUNCTION_WORDS for text in (question, reasoning)
  )
  overlap = len(asked & used) / len(asked) if asked else 0.5
  own = len(used - asked) / max(1, len(used))
  return overlap if formula == "seed" else overlap * min(1.0, own / 0.4) * prose_score(reasoning)


def copied_share(answer: str, question: str) -> float:
  """Share of the answer's five-word phrases that stand in the question. Range [0, 1]."""
  asked, said = set(phrases_of(question, 5)), phrases_of(answer, 5)
  return sum(p in asked for p in said) / max(1, len(said))


def coherence_score(reasoning: str) -> float:
  """Step markers 0.4, connectives 0.3, flow (sentences of 3 to 40 words) 0.3. Range [0, 1]. Seed 004 names the parts, the sizes
  are ours. Different markers count, by how far the text reads like language: "Step 1 therefore Step 2 therefore" earns little.
  """
  different = lambda pattern: len(
    {m.group().strip().lower() for m in itertools.islice(pattern.finditer(reasoning), 500)}
  )
  sentences = [len(s.split()) for s in re.split(r"[.!?\n]+", reasoning) if s.strip()]
  flow = sum(3 <= n <= 40 for n in sentences) / max(1, len(sentences))
  steps, links = (min(1.0, different(pattern) / 3) for pattern in (STEPS, CONNECTIVES))
  return (0.4 * steps + 0.3 * links + 0.3 * flow) * reads_well(reasoning)
