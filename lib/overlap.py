"""TODO-DOC overlap."""

import array
import collections
import hashlib
import itertools
import random
import re
import unicodedata
from typing import NamedTuple

import numpy as np

from lib import contract, quantities

# ------------------------------------------------------------------------------- cleaning: duplicates and contamination
# A word, a number, or one symbol that carries meaning in mathematics and code; other punctuation does not make a new question.
WORD = re.compile(r"[^\W\d]+|\d+(?:[.,:]\d+)*|[^\w\s.,;:!?'\"`´‘’“”…]")
NUMBER_WORDS = frozenset(
  [
    *quantities.WORDS,
    *quantities.MAGNITUDES,
    "half",
    "third",
    "quarter",
    "twice",
    "double",
    "triple",
    "dozen",
  ]
)
NEAR_WORDS, NEAR_SHINGLE, NEAR_JACCARD, NEAR_BANDS, NEAR_BUCKET = 128, 3, 0.75, 6, 20
LEAK_NGRAM = 8  # words; open-r1's rule (its scripts/decontaminate.py)
PHRASE = 5  # words
NAMED = "\nYour function must be named"


class Words(NamedTuple):
  """The questions of N rows as one stream of W hashed words."""

  hashes: np.ndarray  # (W,) uint64
  start: np.ndarray  # (N + 1,) int32; row i is hashes[start[i]:start[i + 1]]
  owner: np.ndarray  # (W,) int32, the row that a word stands in
  number: np.ndarray  # (W,) bool
  domain: np.ndarray  # (N,) int8
  keys: list  # N times 16 bytes that stand for a row's normalised text


def split_words(text: str) -> list[str]:
  return WORD.findall((text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold())


def short_hash(text: str) -> int:
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def read_words(rows: list[dict]) -> Words:
  vocabulary, stream, start, known = collections.defaultdict(), bytearray(), [0], {}
  vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
  for row in rows:
    chunks = (
      row["question"].partition(NAMED)[0].split()
    )  # two coding tasks are not alike because both name a function
    try:
      stream += b"".join([known[chunk] for chunk in chunks])
    except KeyError:  # no word holds a space, so what stands between two is split once, however often it stands there
      for chunk in set(chunks).difference(known):
        known[chunk] = array.array("i", [vocabulary[word] for word in split_words(chunk)]).tobytes()
      stream += b"".join([known[chunk] for chunk in chunks])
    start.append(len(stream) // 4)
  words, start = np.frombuffer(stream, np.int32), np.array(start, np.int32)
  hashes = np.array(list(map(short_hash, vocabulary)), np.uint64)[words]
  number = np.array([word[0].isdigit() or word in NUMBER_WORDS for word in vocabulary], bool)[words]
  domain = np.array([contract.DOMAINS.index(row["domain"]) for row in rows], np.int8)
  keys = [
    hashlib.blake2b(hashes[a:b], digest_size=16).digest()
    for a, b in itertools.pairwise(start.tolist())
  ]
  return Words(
    hashes,
    start,
    np.repeat(np.arange(len(rows), dtype=np.int32), np.diff(start)),
    number,
    domain,
    keys,
  )


def among(values, wanted) -> np.ndarray:
  """(N,) bool: np.isin(values, wanted) without sorting all the values; a table of 2**20 bits rules most of them out."""
  slot, table, found = (
    lambda hashes: hashes & np.uint64(2**20 - 1),
    np.zeros(2**20, bool),
    np.zeros(len(values), bool),
  )
  table[slot(wanted)] = True
  close = np.flatnonzero(table[slot(values)])
  found[close] = np.isin(values[close], wanted)
  return found


def ngrams(hashes, owner, n: int):
  """Hashes (G,) of every run of n words inside one row, and the index of its first word (G,)."""
  width = max(0, len(hashes) - n + 1)
  total = np.zeros(width, np.uint64)
  for i in range(n):
    total *= np.uint64(0x9E3779B97F4A7C15)
    total += hashes[i : width + i]
  inside = np.flatnonzero(owner[:width] == owner[len(owner) - width :]).astype(np.int32)
  return total[inside], inside


def mix(values, salt: int):
  """A different pseudo-random order of the same hashes for each odd salt (multiply, fold)."""
  values = values * np.uint64(salt)
  return (values ^ (values >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)


def near_duplicates(words: Words, groups) -> dict[int, int]:
  """Row -> the earlier, kept row that it nearly repeats: Jaccard of 3-word shingles >= 0.75, only inside a group.

  The first 128 words count: a text that begins like another for so long is the same text.
  `groups` (N,) uint64 holds what must be equal, the numbers in the question and the answer: a template filled with other
  numbers is another question. Candidates by MinHash in 6 bands of 2 (a pair at 0.75 is missed once in 143), then checked.
  """
  sizes = np.minimum(np.diff(words.start), NEAR_WORDS)
  ends, heads = (
    np.cumsum(sizes),
    np.arange(len(words.owner), dtype=np.int32) - words.start[words.owner] < NEAR_WORDS,
  )
  # Two marks at both ends of a row, so that a word there counts as much as another.
  stream = np.insert(
    words.hashes[heads], np.sort(np.r_[ends - sizes, ends - sizes, ends, ends]), np.uint64(7)
  )
  grams, _ = ngrams(stream, np.repeat(np.arange(len(sizes)), sizes + 4), NEAR_SHINGLE)
  start, pairs = np.r_[0, np.cumsum(sizes + 2)], set()
  salts = iter(random.Random(8).sample(range(1, 2**62, 2), 2 * NEAR_BANDS))
  for _ in range(NEAR_BANDS):
    key = groups
    for _ in range(2):
      key = mix(key ^ np.minimum.reduceat(mix(grams, next(salts)), start[:-1]), 0x94D049BB133111EB)
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.r_[True, key[order[1:]] != key[order[:-1]], True])
    for a in np.flatnonzero(np.diff(edges) > 1):
      bucket = order[edges[a] : edges[a + 1]].tolist()  # in row order: the sort is stable
      pairs.update(
        (late, early) for i, late in enumerate(bucket) for early in bucket[: min(i, NEAR_BUCKET)]
      )
  shingles = {
    row: set(grams[start[row] : start[row + 1]].tolist())
    for row in set(itertools.chain.from_iterable(pairs))
  }
  found = {}
  for late, early in sorted(pairs):
    if late not in found and early not in found:
      shared = len(shingles[late] & shingles[early])
      if shared >= NEAR_JACCARD * (len(shingles[late]) + len(shingles[early]) - shared):
        found[late] = early
  return found


def only_evaluates(row: dict) -> bool:
  """Its source marks it test, dev, val, valid, validation, eval, …"""
  return str(row["metadata"].get("split")).lower().startswith(("test", "dev", "val", "eval"))


def is_builtin(row: dict) -> bool:
  """The generator's rows share templates and differ by construction: among them, only an exact repetition is one."""
  return row["metadata"].get("source") == "builtin"


def clean(rows: list[dict], words: Words) -> dict[int, str]:
  """Row -> reason, for exact duplicates, then near ones. The first row wins; --eval_pool's stand first, so no training row
  repeats one."""
  first, dropped, numbers = {}, {}, np.zeros(len(rows), np.uint64)
  answers = [
    " ".join(split_words(row["answer"])) if row["domain"] in ("math", "science", "logic") else ""
    for row in rows
  ]
  for i, key in enumerate(words.keys):
    j = first.setdefault(key, i)
    if j != i:
      dropped[i] = (
        "duplicate question" if answers[i] == answers[j] else "same question, other answer"
      )
  np.add.at(numbers, words.owner[words.number], mix(words.hashes[words.number], 0xD6E8FEB86659FD93))
  same = [
    short_hash(words.keys[i].hex() if is_builtin(row) else answers[i]) for i, row in enumerate(rows)
  ]
  return (
    dict.fromkeys(
      near_duplicates(words, mix(numbers, 3) ^ np.array(same, np.uint64)), "near-duplicate question"
    )
    | dropped
  )


def wording(words: Words, spans) -> np.ndarray:
  """(S, 8) bool: which words of 8-word spans belong to a phrase that their domain repeats ("write a short story based on …").

  A phrase is 5 words, numbers masked, that stand at least 10 times and in 1% of the domain's rows. spans: (S,) first words.
  Only phrases that touch a span are counted.
  """
  masked, (near, covered) = (
    np.where(words.number, np.uint64(1), words.hashes),
    np.zeros((2, len(words.hashes)), bool),
  )
  grams, first = ngrams(masked, words.owner, PHRASE)
  domain = words.domain[words.owner[first]]
  keys = mix(grams, 5) + domain.astype(np.uint64)
  near[np.clip(np.add.outer(spans, np.arange(1 - PHRASE, LEAK_NGRAM)), 0, len(near) - 1)] = True
  touching = np.flatnonzero(among(keys, np.unique(keys[near[first]])))
  _, kind, count = np.unique(keys[touching], return_inverse=True, return_counts=True)
  common = first[
    touching[count[kind] >= np.maximum(10, np.bincount(words.domain)[domain[touching]] / 100)]
  ]
  covered[np.add.outer(common, np.arange(PHRASE))] = True
  return covered[np.add.outer(spans, np.arange(LEAK_NGRAM))]


def contaminated(
  words: Words, train: list[int], evaluation: list[int]
) -> dict[int, tuple[int, int]]:
  """Training row -> (evaluation row, place of the first shared word), where both hold the same 8 words in a row (open-r1's rule).

  Departure: at least half of the 8 must be the question's own words, not its domain's wording, otherwise every row of a
  template counts as contaminated by every other.
  """
  asking, asked = np.zeros((2, len(words.keys)), bool)
  asking[train], asked[evaluation] = True, True
  grams, first = ngrams(words.hashes, words.owner, LEAK_NGRAM)
  owner, found = words.owner[first], {}
  held = np.flatnonzero(asked[owner])
  known, where = np.unique(grams[held], return_index=True)
  leaks = np.flatnonzero(asking[owner] & among(grams, known))
  if len(leaks):
    leaks = leaks[wording(words, first[leaks]).sum(1) <= LEAK_NGRAM // 2]
  for g in leaks.tolist():
    row = int(owner[g])
    if row not in found:
      found[row] = (
        int(owner[held[where[np.searchsorted(known, grams[g])]]]),
        int(first[g] - words.start[row]),
      )
  return found
