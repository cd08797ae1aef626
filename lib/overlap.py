"""Questions that repeat or nearly repeat each other, and training rows that give evaluation away.

`read_words` turns all questions into one stream of hashed words. `clean` finds exact and near
duplicates in it, `contaminated` training rows that share eight words in a row with an evaluation
row.

N: rows, W: words of all rows together, G: n-grams.
"""

import array
import collections
import hashlib
import itertools
import random
import re
import unicodedata
from typing import NamedTuple

import numpy as np

from lib import contract, number_words, quantities, splits

# A word, a number, or one symbol that carries meaning in mathematics and code. Other punctuation
# does not make a new question.
QUESTION_WORD = re.compile(r"[^\W\d]+|\d+(?:[.,:]\d+)*|[^\w\s.,;:!?'\"`´‘’“”…]")
FRACTION_WORDS = ("half", "third", "quarter", "twice", "double", "triple", "dozen")
NUMBER_WORDS = frozenset([*number_words.SPELLED_NUMBERS, *quantities.MAGNITUDES, *FRACTION_WORDS])
FUNCTION_NAME = "\nYour function must be named"  # two tasks are not alike because both name one

LEAK_WORDS = 8  # in a row; open-r1's rule (its scripts/decontaminate.py)
PHRASE_WORDS = 5  # of a domain's repeated wording, see `repeated_wording`

# Near duplicates: Jaccard similarity of 3-word shingles, found by MinHash (Broder 1997).
SIMILAR = 0.75
SHINGLE_WORDS = 3
FIRST_WORDS = 128  # a text that begins like another for so long is the same text
BANDS = 6  # of 2 hashes each: a pair at 0.75 is missed once in 143
COMPARED = 20  # earlier rows of a bucket that a row is compared with

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads sums of hashes


class Words(NamedTuple):
  """The questions of N rows as one stream of W hashed words."""

  hashes: np.ndarray  # (W,) uint64
  start: np.ndarray  # (N + 1,) int32; row i is hashes[start[i]:start[i + 1]]
  owner: np.ndarray  # (W,) int32, the row that a word stands in
  number: np.ndarray  # (W,) bool
  domain: np.ndarray  # (N,) int16
  keys: list  # N times 16 bytes that stand for a row's normalised text


def split_words(text: str) -> list[str]:
  if not text.isascii():
    text = unicodedata.normalize("NFKC", text)
  return QUESTION_WORD.findall(text.casefold())


def short_hash(text: str) -> int:
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class WordNumbers(dict):
  """A stretch of text without spaces → the numbers of its words as int32 bytes, each split once."""

  def __init__(self, vocabulary: dict[str, int]):
    super().__init__()
    self.vocabulary = vocabulary

  def __missing__(self, chunk: str) -> bytes:
    numbers = [self.vocabulary[word] for word in split_words(chunk)]
    self[chunk] = array.array("i", numbers).tobytes()
    return self[chunk]


def read_words(rows: list[dict]) -> Words:
  """The stream of all rows' questions. Each distinct word is split and hashed once."""
  vocabulary = collections.defaultdict()
  vocabulary.default_factory = vocabulary.__len__  # a new word gets the next number
  known = WordNumbers(vocabulary)
  # Bytes, not a list: a pool of 40,000 rows has millions of words, at four bytes each.
  stream = bytearray()
  start = [0]
  for row in rows:
    question = row["question"].partition(FUNCTION_NAME)[0]
    stream += b"".join([known[chunk] for chunk in question.split()])
    start.append(len(stream) // 4)

  words = np.frombuffer(stream, np.int32)  # (W,), indices into the vocabulary
  # By the word, not by its number: a number depends on which rows came before.
  hash_of = np.array([short_hash(word) for word in vocabulary], np.uint64)
  is_number = np.array([word[0].isdigit() or word in NUMBER_WORDS for word in vocabulary], bool)
  hashes = hash_of[words]
  lengths = np.diff(np.array(start, np.int32))
  keys = []
  for first, end in itertools.pairwise(start):
    keys.append(hashlib.blake2b(hashes[first:end], digest_size=16).digest())
  # Numbers that tell domains apart; those of the user's own come behind the project's.
  names = dict.fromkeys((*contract.DOMAINS, *(row["domain"] for row in rows)))
  number_of = {name: number for number, name in enumerate(names)}
  return Words(
    hashes=hashes,
    start=np.array(start, np.int32),
    owner=np.repeat(np.arange(len(rows), dtype=np.int32), lengths),
    number=is_number[words],
    domain=np.array([number_of[row["domain"]] for row in rows], np.int16),
    keys=keys,
  )


# Hashes in bulk.


def is_among(values, wanted) -> np.ndarray:
  """np.isin(values, wanted), (len(values),) bool, without sorting all the values.

  A table of 2^20 bits rules most of them out.
  """
  low_bits = np.uint64(2**20 - 1)
  table = np.zeros(2**20, bool)
  table[wanted & low_bits] = True
  candidates = np.flatnonzero(table[values & low_bits])
  found = np.zeros(len(values), bool)
  found[candidates] = np.isin(values[candidates], wanted)
  return found


def ngrams(hashes, owner, n: int):
  """Hashes (G,) of every run of n words inside one row, and the index (G,) of its first word."""
  width = max(0, len(hashes) - n + 1)
  total = np.zeros(width, np.uint64)
  for i in range(n):
    # A polynomial in GOLDEN modulo 2^64: "a b" and "b a" differ.
    total *= GOLDEN
    total += hashes[i : width + i]
  # A run whose first and last word stand in one row stands in it as a whole.
  last_owner = owner[len(owner) - width :]
  inside = np.flatnonzero(owner[:width] == last_owner).astype(np.int32)
  return total[inside], inside


def mix(values, salt: int):
  """A different pseudo-random order of the same hashes for each odd salt (multiply, fold)."""
  values = values * np.uint64(salt)
  return (values ^ (values >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)


# Duplicates.


def only_evaluates(row: dict) -> bool:
  """Whether its source marks it test, dev, val, valid, validation, eval, …"""
  return splits.evaluates(row["metadata"].get("split"))


def is_builtin(row: dict) -> bool:
  """The generator's rows share templates: among them, only an exact repetition is a duplicate."""
  return row["metadata"].get("source") == "builtin"


def clean(rows: list[dict], words: Words) -> dict[int, str]:
  """Row → why it is dropped, for exact duplicates and near ones.

  The first row wins. Those of --eval_pool stand first, so no training row repeats one.
  """
  answers = []
  for row in rows:
    # Two programs or poems may differ and both be right: only these have the one answer.
    has_one = row["domain"] in ("math", "science", "logic")
    answers.append(" ".join(split_words(row["answer"])) if has_one else "")

  exact = {}
  first_with = {}
  for i, key in enumerate(words.keys):
    first = first_with.setdefault(key, i)
    if first == i:
      continue
    if answers[i] == answers[first]:
      exact[i] = "duplicate question"
    else:
      exact[i] = "same question, other answer"

  # A template filled with other numbers is another question, and so is one with another answer.
  # So rows are near duplicates only inside a group of the same numbers and the same answer.
  numbers = np.zeros(len(rows), np.uint64)  # (N,) a row's numbers as one sum of their hashes
  hashes = mix(words.hashes[words.number], 0xD6E8FEB86659FD93)
  np.add.at(numbers, words.owner[words.number], hashes)
  same = []
  for row, key, answer in zip(rows, words.keys, answers, strict=True):
    # A built-in row is a group of its own.
    same.append(short_hash(key.hex() if is_builtin(row) else answer))
  groups = mix(numbers, 3) ^ np.array(same, np.uint64)
  near = dict.fromkeys(near_duplicates(words, groups), "near-duplicate question")
  return near | exact


def near_duplicates(words: Words, groups) -> dict[int, int]:
  """Row → the earlier, kept row that it nearly repeats; groups (N,) uint64: only inside a group."""
  grams, start = shingles(words)
  pairs = set()
  # Odd numbers, for `mix`; a generator of its own, so that --seed changes no duplicate.
  salts = iter(random.Random(8).sample(range(1, 2**62, 2), 2 * BANDS))
  for _ in range(BANDS):
    # Two rows have the same smallest hash with a probability that is their similarity (Broder
    # 1997). Rows with equal ones under two salts, in one group, are candidates.
    key = groups
    for _ in range(2):
      smallest = np.minimum.reduceat(mix(grams, next(salts)), start[:-1])  # (N,)
      key = mix(key ^ smallest, 0x94D049BB133111EB)
    for bucket in equal_rows(key):
      for i, late in enumerate(bucket):
        # With the first few only: a bucket of thousands would be millions of pairs.
        pairs.update((late, early) for early in bucket[: min(i, COMPARED)])

  # Equal MinHashes are a guess; the shingles themselves decide.
  found = {}
  for late, early in sorted(pairs):
    # Compared with rows that stay: a chain of likenesses must not drop both of its ends.
    if late in found or early in found:
      continue
    a = set(grams[start[late] : start[late + 1]].tolist())
    b = set(grams[start[early] : start[early + 1]].tolist())
    if len(a & b) >= SIMILAR * len(a | b):
      found[late] = early
  return found


def shingles(words: Words):
  """3-word shingles of each row's first words, (G,), and where each row's begin, (N + 1,)."""
  lengths = np.minimum(np.diff(words.start), FIRST_WORDS)  # (N,)
  # (W,) how far into its row a word stands.
  place = np.arange(len(words.owner), dtype=np.int32) - words.start[words.owner]
  heads = words.hashes[place < FIRST_WORDS]
  # Two marks at both ends of a row, so that a word there counts as much as another: it stands in
  # three shingles. "a b" → "· · a b · ·".
  ends = np.cumsum(lengths)
  starts = ends - lengths
  marks = np.sort(np.concatenate([starts, starts, ends, ends]))
  stream = np.insert(heads, marks, np.uint64(7))
  owner = np.repeat(np.arange(len(lengths)), lengths + 4)
  grams, _ = ngrams(stream, owner, SHINGLE_WORDS)
  return grams, np.concatenate([[0], np.cumsum(lengths + 2)])


def equal_rows(key):
  """Lists of the rows, in their order, that share a key (N,) with another."""
  order = np.argsort(key, kind="stable")
  ordered = key[order]
  # [5, 5, 7] → edges 0, 2, 3: rows 0 and 1 of `order` share a key.
  changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
  edges = np.concatenate([[0], changes, [len(key)]])
  for i in np.flatnonzero(np.diff(edges) > 1):
    yield order[edges[i] : edges[i + 1]].tolist()


# Contamination.


def contaminated(
  words: Words, train: list[int], evaluation: list[int]
) -> dict[int, tuple[int, int]]:
  """Training row → (evaluation row, place of the first shared word).

  Both hold the same eight words in a row (open-r1's rule). Departure: at least half of the eight
  must be the question's own words, not its domain's repeated wording, otherwise every row of a
  template counts as contaminated by every other.
  """
  trains = np.zeros(len(words.keys), bool)
  trains[train] = True
  evaluates = np.zeros(len(words.keys), bool)
  evaluates[evaluation] = True

  grams, first = ngrams(words.hashes, words.owner, LEAK_WORDS)
  owner = words.owner[first]  # (G,)
  asked = np.flatnonzero(evaluates[owner])  # the n-grams of evaluation rows
  known, where = np.unique(grams[asked], return_index=True)
  # n-grams of training rows that are also an evaluation row's.
  leaks = np.flatnonzero(trains[owner] & is_among(grams, known))
  if len(leaks):
    wording = repeated_wording(words, first[leaks])  # (leaks, 8)
    leaks = leaks[wording.sum(1) <= LEAK_WORDS // 2]

  found = {}
  for leak in leaks.tolist():
    row = int(owner[leak])
    # One reason is enough to leave a row out: the first.
    if row in found:
      continue
    evaluation_gram = asked[where[np.searchsorted(known, grams[leak])]]
    place = int(first[leak] - words.start[row])
    found[row] = (int(owner[evaluation_gram]), place)
  return found


def repeated_wording(words: Words, spans) -> np.ndarray:
  """(S, 8) bool: which words of eight-word spans belong to a phrase that their domain repeats.

  Such as "write a short story based on …". A phrase is five words, numbers masked, that stand at
  least ten times and in 1% of the domain's rows. spans: (S,), each span's first word.
  """
  masked = np.where(words.number, np.uint64(1), words.hashes)
  grams, first = ngrams(masked, words.owner, PHRASE_WORDS)
  domain = words.domain[words.owner[first]]  # (G,)
  keys = mix(grams, 5) + domain.astype(np.uint64)

  # Only phrases that touch a span are counted: the window of first words that reach into it.
  window = np.add.outer(spans, np.arange(1 - PHRASE_WORDS, LEAK_WORDS))  # (S, 12)
  near = np.zeros(len(words.hashes), bool)
  near[np.clip(window, 0, len(near) - 1)] = True
  touching = np.flatnonzero(is_among(keys, np.unique(keys[near[first]])))
  _, kind, count = np.unique(keys[touching], return_inverse=True, return_counts=True)
  # Of the rows that the domain of each has.
  one_percent = np.bincount(words.domain)[domain[touching]] / 100
  common = first[touching[count[kind] >= np.maximum(10, one_percent)]]

  covered = np.zeros(len(words.hashes), bool)
  covered[np.add.outer(common, np.arange(PHRASE_WORDS))] = True
  return covered[np.add.outer(spans, np.arange(LEAK_WORDS))]
