"""How many rows of each domain a data set holds, which rows they are, and in which order.

`mixture` gives the domains' shares, `quotas` turns shares into counts, `place_rows` gives each row
its home split, `draw` fills the splits and `interleave` puts their rows in order.
"""

import collections
import hashlib
import math

from lib import contract, overlap, splits
from lib.errors import InputError


def mixture(counts: dict, mixing: str, temperature: float, weights: dict) -> dict[str, float]:
  """Domain → share, summing to 1; counts: clean rows of each domain.

  "natural": as the rows come. "weights": as `weights` says. "disco": share ~ p^T, where p is the
  natural share and T the temperature (the multi_domain write-up's code and its table of counts):
  T = 0.5 flattens. The curriculum write-up prints p^(1/T), which at T = 0.5 is p² and would
  sharpen.
  """
  # Only the ratios count here, so weights need not sum to 1: 3 and 1 are 0.75 and 0.25.
  if mixing == "weights":
    raw = weights
  else:
    # With 900 and 100 rows, T = 0.5 gives 30 : 10, so 75% and 25% in place of 90% and 10%.
    power = temperature if mixing == "disco" else 1
    raw = {domain: count**power for domain, count in counts.items() if count}
  # A fixed order: floats are summed alike and rows drawn alike, however the pools came.
  order = in_order(raw)
  total = sum(raw[domain] for domain in order)
  return {domain: raw[domain] / total for domain in order if raw[domain]}


def in_order(domains) -> list[str]:
  """The project's domains in their order, then those of the user's own, by name."""
  # A user's own domain comes after, so that adding one leaves the others' places alone.
  known = [domain for domain in contract.DOMAINS if domain in domains]
  return known + sorted(set(domains) - set(known))


def read_weights(items: list[str], own=()) -> dict[str, float]:
  """["math=0.35", "coding=0.3"] → {"math": 0.35, "coding": 0.3}; own: the user's own domains."""
  weights = {}
  for item in items:
    name, _, value = item.partition("=")
    name = name.strip()
    if name not in contract.DOMAINS and name not in own:
      raise InputError(
        f"--domain_weights names {name!r}, which is no domain; valid: {', '.join(contract.DOMAINS)}"
      )
    try:
      weights[name] = float(value)
    except ValueError:
      raise InputError(
        f"--domain_weights: {item!r} is not name=number; write for example math=0.35,coding=0.3"
      ) from None
  # float() reads "nan" and "inf" too; a comparison with NaN is False, so both are refused.
  in_range = all(0 <= weight < math.inf for weight in weights.values())
  if not in_range or not sum(weights.values()):
    raise InputError(
      f"--domain_weights is {','.join(items)!r}; expected non-negative numbers with a sum above 0"
    )
  return weights


def quotas(shares: dict, total: int, room: dict, what: str) -> dict[str, int]:
  """Domain → count, summing to `total` exactly, by largest remainder.

  A domain with less `room` than its share asks gives all it has. The others take up the rest in
  proportion to their shares, again and again until it fits. what: the split, for the error that all
  rooms together are too small.
  """
  counts = {}
  # Those that have not given all they have: only they can take up what others lack.
  free = {domain: share for domain, share in shares.items() if share > 0}
  # Each round freezes at least one domain that is too small, so the loop ends.
  # One round is not enough: the rows that a small domain lacks may be too many for the next one.
  while True:
    left = total - sum(counts.values())
    exact = {domain: share * (left / sum(free.values())) for domain, share in free.items()}
    # Of 100 rows with shares 0.5, 0.3, 0.2 and room for 20 of the first, 80 are left for
    # the other two: 48 and 32.
    short = [domain for domain in free if exact[domain] > room.get(domain, 0)]
    if not short:
      break
    for domain in short:
      counts[domain] = room.get(domain, 0)
      del free[domain]
  if left and not free:
    raise InputError(
      f"{what}: {total:,} rows asked, {total - left:,} can be used (clean, of the domains mixed, "
      "on this side of the split); lower the sizes or add rows"
    )

  # Rounding each share by itself could miss the total: three of 33.3 round to 99, not 100.
  # So all are rounded down, and what is missing goes to the largest fractions.
  for domain, count in exact.items():
    counts[domain] = math.floor(count)
  missing = total - sum(counts.values())
  # Rounded minus exact is lowest where most was cut off: 3 - 3.9 comes before 3 - 3.2.
  by_remainder = sorted(free, key=lambda domain: counts[domain] - exact[domain])
  for domain in by_remainder[:missing]:
    counts[domain] += 1
  return {domain: counts[domain] for domain in shares if domain in counts}


# side → how far into the range of hashes the homes "test" and "val" reach; the rest is "train".
HOMES = {"eval": (0.5, 1.0), "train": (0.0, 0.0), None: (0.1, 0.2)}


def place_rows(rows: list[dict], keys: list[bytes], official: bool, separate_eval: bool, seed: int):
  """Gives each row a side, a home split and a rank.

  row["side"]: "train" or "eval" where a row may not cross over, None elsewhere. Rows of
  --eval_pool and, with `official`, rows that their source marks as evaluation never train; beside
  an --eval_pool the rest never evaluates. row["home"]: the split that it goes to first, from the
  hash of its question (`keys`) alone: a tenth test, a tenth val. A grown pool leaves it where it
  was. Where evaluation rows are marked, some val and some test, their mark is their home.
  row["rank"]: its place in the draw, by the seed too.
  """
  # The remainder makes a negative seed fit eight bytes.
  salt = (seed % 2**64).to_bytes(8, "little")
  for row in rows:
    row["side"] = side_of(row, official, separate_eval)
  marked = marked_homes(rows)
  for row, key in zip(rows, keys, strict=True):
    test_ends, val_ends = HOMES[row["side"]]
    # Eight bytes of a hash as a number in [0, 1): the same for a question in any pool and order.
    fraction = int.from_bytes(key[:8], "little") / 2**64
    if row["index"] in marked:
      row["home"] = marked[row["index"]]
    elif fraction < test_ends:
      row["home"] = "test"
    elif fraction < val_ends:
      row["home"] = "val"
    else:
      row["home"] = "train"
    # With another seed other rows are drawn, but none leaves its home.
    row["rank"] = hashlib.blake2b(key, digest_size=8, key=salt).digest()


def marked_homes(rows: list[dict]) -> dict[int, str]:
  """index of an evaluation row → val or test, as its source marks it.

  Empty unless both are there: GSM8K has a test set alone, and val must come from it too.
  """
  homes = {"val": "val", "dev": "val", "test": "test"}
  marked = {}
  for row in rows:
    split = splits.name_split(str(row["metadata"].get("split")))
    if row["side"] == "eval" and split in homes:
      marked[row["index"]] = homes[split]
  return marked if len(set(marked.values())) == 2 else {}


def side_of(row: dict, official: bool, separate_eval: bool) -> str | None:
  if row.get("evaluates"):  # it came through --eval_pool
    return "eval"
  if official and overlap.only_evaluates(row):
    return "eval"
  return "train" if separate_eval else None


def pick(rows: list[dict], counts: dict[str, int]) -> dict[str, list[dict]]:
  """Split → its count of rows.

  First the lowest-ranked of the split's own home. Where these run out it borrows the highest-ranked
  that other homes leave over, training rows before others. Both ends matter: added rows can only
  raise a row's rank, so a row once borrowed from the far end of the training rows never turns up
  among the training rows of a grown pool (as long as its domain is not asked for more of them).
  """
  # Not shuffled: a new row takes its place among the old and leaves their order as it was.
  ranked = sorted(rows, key=lambda row: row["rank"])
  chosen = {}
  for split, count in counts.items():
    chosen[split] = [row for row in ranked if row["home"] == split][:count]

  taken = {row["index"] for group in chosen.values() for row in group}
  left_over = [row for row in reversed(ranked) if row["index"] not in taken]
  left_over.sort(key=lambda row: row["home"] != "train")  # stable: training rows first
  for split, group in chosen.items():
    missing = counts[split] - len(group)
    # In place: `group` is the list in `chosen`, and the next split must not borrow the same rows.
    group += left_over[:missing]
    del left_over[:missing]
  return chosen


def draw(
  rows: list[dict], words: overlap.Words, sizes: dict, shares: dict, flexible=frozenset()
) -> tuple[dict, dict]:
  """(split → rows in final order, the contamination found) from clean, placed rows.

  Evaluation rows are drawn first. Training rows are those that share no eight words with them, nor
  with rows that may only evaluate. flexible: the splits that get what there is where that is less
  than their size; for the others too few rows raise InputError.
  """
  # Only where both give way; one fixed size beside a flexible one must be met or refused.
  if {"val", "test"} <= flexible:
    sizes = sizes | fit_evaluation(sizes, rows, shares)
  chosen = draw_evaluation(rows, sizes, shares)
  taken = {row["index"] for group in chosen.values() for row in group}

  # First drawn, then compared: only rows that do evaluate can cost training rows.
  training = [row for row in rows if row["side"] != "eval" and row["index"] not in taken]
  # An official evaluation row that was not drawn counts too: a later, larger test may hold it.
  asked = [row["index"] for row in rows if row["side"] == "eval" or row["index"] in taken]
  # The generator's rows share templates and differ by construction.
  checked = [row["index"] for row in training if not overlap.is_builtin(row)]
  leaks = overlap.contaminated(words, checked, asked)
  training = [row for row in training if row["index"] not in leaks]

  # Counted after decontamination, so that quotas never ask for a row that was dropped.
  room = collections.Counter(row["domain"] for row in training)
  chosen["train"] = []
  train_size = sizes["train"]
  if "train" in flexible:
    train_size = min(train_size, sum(room[domain] for domain in shares))
  for domain, count in quotas(shares, train_size, room, "train").items():
    able = [row for row in training if row["domain"] == domain]
    chosen["train"] += pick(able, {"train": count})["train"]
  return {split: interleave(chosen[split]) for split in contract.SPLITS}, leaks


def fit_evaluation(sizes: dict, rows: list[dict], shares: dict) -> dict[str, int]:
  """Lowers val and test, in their proportion, where fewer rows may evaluate than they ask."""
  able = sum(row["side"] != "train" and row["domain"] in shares for row in rows)
  wanted = sizes["val"] + sizes["test"]
  if wanted <= able:
    return {}
  # Of 300 + 100 asked with 40 there: 30 and 10. What rounding leaves goes to test.
  val = able * sizes["val"] // wanted
  return {"val": val, "test": able - val}


def draw_evaluation(rows: list[dict], sizes: dict, shares: dict) -> dict[str, list[dict]]:
  """The rows of val and test, each domain by its share."""
  wanted = sizes["val"] + sizes["test"]
  by_side = collections.Counter((row["domain"], row["side"]) for row in rows)

  def room_at(share: float) -> dict[str, int]:
    room = {}
    for domain in shares:
      either = by_side[domain, None]  # rows that may train or evaluate
      # Rows that may only evaluate are all there to take: training loses nothing by it.
      room[domain] = by_side[domain, "eval"] + math.ceil(either * share)
    return room

  # A small domain gives evaluation its part of the rows, not all of them; but where that is not
  # enough in all, whatever there is.
  room = room_at(wanted / (wanted + sizes["train"]))
  if sum(room.values()) < wanted:
    room = room_at(1)

  both = quotas(shares, wanted, room, "val and test")
  # The test's count is what is left, so the two sum to `both` in every domain.
  val = quotas(both, sizes["val"], both, "val")
  chosen = {"val": [], "test": []}
  for domain, count in both.items():
    able = [row for row in rows if row["domain"] == domain and row["side"] != "train"]
    in_val = val.get(domain, 0)
    for split, group in pick(able, {"val": in_val, "test": count - in_val}).items():
      chosen[split] += group
  return chosen


def interleave(rows: list[dict]) -> list[dict]:
  """Orders rows so that every window holds each domain in proportion, to within a row or two.

  The j-th of a domain's n rows stands at (j + u) / n of the way. This is the curriculum write-up's
  mixing at sampling time, without blocks and without luck.
  """
  spots = []
  for domain in in_order({row["domain"] for row in rows}):
    group = [row for row in rows if row["domain"] == domain]
    group.sort(key=lambda row: row["rank"])
    if not group:
      continue
    # u, where a domain starts, is random, but fixed by its first row.
    start = int.from_bytes(group[0]["rank"][4:], "big") / 2**32
    for j, row in enumerate(group):
      # Two rows at 0.25 and 0.75, four at 0.1, 0.35, 0.6, 0.85: sorted, the two stand among
      # the four.
      spots.append(((j + start) / len(group), row))
  spots.sort(key=lambda spot: spot[0])
  return [row for _, row in spots]
