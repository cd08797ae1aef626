"""TODO-DOC mixing."""

import collections
import hashlib
import itertools
import math

from lib import contract, overlap
from lib.errors import InputError


# ----------------------------------------------------------------------------------------------------- mixing and splitting
def mixture(counts: dict, mixing: str, temperature: float, weights: dict) -> dict[str, float]:
  """Domain -> share, summing to 1. DISCO: share ~ p^T, where p is a domain's natural share of the clean rows.

  T = 0.5 flattens (seed 000's code and its table of counts). Seed 001's write-up prints p^(1/T), which at T = 0.5 is p^2 and
  would sharpen: the largest domain would take more, not less.
  """
  power = temperature if mixing == "disco" else 1
  raw = weights if mixing == "weights" else {d: n**power for d, n in counts.items() if n}
  total = sum(raw.get(d, 0) for d in contract.DOMAINS)
  return {d: raw[d] / total for d in contract.DOMAINS if raw.get(d)}


def read_weights(items: list[str]) -> dict[str, float]:
  weights = {}
  for item in items:
    name, _, value = item.partition("=")
    if name.strip() not in contract.DOMAINS:
      raise InputError(
        f"--domain_weights names {name.strip()!r}, which is no domain; valid: {', '.join(contract.DOMAINS)}"
      )
    try:
      weights[name.strip()] = float(value)
    except ValueError:
      raise InputError(
        f"--domain_weights: {item!r} is not name=number; write for example math=0.35,coding=0.3"
      ) from None
  if not all(0 <= weight < math.inf for weight in weights.values()) or not sum(weights.values()):
    raise InputError(
      f"--domain_weights is {','.join(items)!r}; expected non-negative numbers with a sum above 0"
    )
  return weights


def quotas(shares: dict, total: int, room: dict, what: str) -> dict[str, int]:
  """Counts that sum to `total` exactly, by largest remainder. A domain with less room gives all it has; the others take up the
  rest in proportion to their shares, again and again until it fits. Raises InputError when all rooms together are too small."""
  counts, free = {}, {d: share for d, share in shares.items() if share > 0}
  while True:
    left = total - sum(counts.values())
    exact = {d: share * (left / sum(free.values())) for d, share in free.items()}
    short = [d for d in free if exact[d] > room.get(d, 0)]
    if not short:
      break
    counts |= {d: room.get(d, 0) for d in short}
    free = {d: share for d, share in free.items() if d not in short}
  if left and not free:
    raise InputError(
      f"{what}: {total:,} rows asked, {total - left:,} can be used (clean, of the domains mixed, on this side of "
      "the split); lower the sizes or add rows"
    )
  counts |= {d: math.floor(x) for d, x in exact.items()}
  for d in sorted(free, key=lambda d: counts[d] - exact[d])[: total - sum(counts.values())]:
    counts[d] += 1
  return {d: counts[d] for d in shares if d in counts}


def place_rows(rows: list[dict], keys: list[bytes], official: bool, separate_eval: bool, seed: int):
  """Gives each row its home split, by the hash of its question alone (a tenth test, a tenth val), and its rank, by the seed too.

  row["side"] is "train" or "eval" where a row may not cross over: rows of --eval_pool and rows that their source marks as
  evaluation never train; beside an --eval_pool the rest never evaluates.
  """
  salt = (seed % 2**64).to_bytes(8, "little")
  for row, key in zip(rows, keys):
    row["side"] = (
      "eval"
      if official and overlap.only_evaluates(row) or row.get("evaluates")
      else "train"
      if separate_eval
      else None
    )
    test, val = {"eval": (0.5, 1), "train": (0, 0), None: (0.1, 0.2)}[row["side"]]
    part = int.from_bytes(key[:8], "little") / 2**64
    row["home"] = "test" if part < test else "val" if part < val else "train"
    row["rank"] = hashlib.blake2b(key, digest_size=8, key=salt).digest()


def pick(rows: list[dict], counts: dict[str, int]) -> dict[str, list[dict]]:
  """Split -> `count` rows: the lowest-ranked of its home; where these run out, the highest-ranked that other homes leave over.

  Both ends matter: added rows can only raise a row's rank, so that a row once borrowed from the far end of the training rows
  never turns up among the training rows of a grown pool (as long as its domain is not asked for more of them).
  """
  ranked = sorted(rows, key=lambda row: row["rank"])
  chosen = {
    split: [row for row in ranked if row["home"] == split][:count]
    for split, count in counts.items()
  }
  taken = {row["index"] for group in chosen.values() for row in group}
  spare = iter(
    sorted(
      (row for row in ranked[::-1] if row["index"] not in taken),
      key=lambda row: row["home"] != "train",
    )
  )
  return {
    split: group + list(itertools.islice(spare, counts[split] - len(group)))
    for split, group in chosen.items()
  }


def draw(rows: list[dict], words: overlap.Words, sizes: dict, shares: dict) -> tuple[dict, dict]:
  """Splits -> rows in final order, and the contamination found. Evaluation rows are drawn first; training rows are those that
  share no 8 words with them, nor with rows that may only evaluate. `rows` are the clean ones."""
  held, chosen = sizes["val"] + sizes["test"], {split: [] for split in contract.SPLITS}
  sides = collections.Counter((row["domain"], row["side"]) for row in rows)
  give = lambda part, whole: {
    d: sides[d, "eval"] + math.ceil(sides[d, None] * part / whole) for d in shares
  }
  room = give(
    held, held + sizes["train"]
  )  # a small domain gives evaluation its part of the rows, not all of them
  both = quotas(shares, held, room if sum(room.values()) >= held else give(1, 1), "val and test")
  val = quotas(both, sizes["val"], both, "val")
  for d, count in both.items():
    able = [row for row in rows if row["domain"] == d and row["side"] != "train"]
    for split, found in pick(able, {"val": val.get(d, 0), "test": count - val.get(d, 0)}).items():
      chosen[split] += found
  taken = {row["index"] for row in chosen["val"] + chosen["test"]}
  training = [row for row in rows if row["side"] != "eval" and row["index"] not in taken]
  asked = [row["index"] for row in rows if row["side"] == "eval" or row["index"] in taken]
  leaks = overlap.contaminated(
    words, [row["index"] for row in training if not overlap.is_builtin(row)], asked
  )
  training = [row for row in training if row["index"] not in leaks]
  counts = quotas(
    shares, sizes["train"], collections.Counter(row["domain"] for row in training), "train"
  )
  for d, count in counts.items():
    chosen["train"] += pick([row for row in training if row["domain"] == d], {"train": count})[
      "train"
    ]
  return {split: interleave(chosen[split]) for split in contract.SPLITS}, leaks


def interleave(rows: list[dict]) -> list[dict]:
  """Mixed order: the j-th of a domain's n rows stands at (j + u) / n of the way, so that every window holds each domain in
  proportion, to within a row or two. This is mixing at sampling time (seed 003) without blocks and without luck."""
  spots = []
  for d in contract.DOMAINS:
    group = sorted((row for row in rows if row["domain"] == d), key=lambda row: row["rank"])
    # u, where a domain starts, is random, but fixed by its first row.
    spots += [
      ((j + int.from_bytes(group[0]["rank"][4:], "big") / 2**32) / len(group), row)
      for j, row in enumerate(group)
    ]
  return [row for _, row in sorted(spots, key=lambda spot: spot[0])]
