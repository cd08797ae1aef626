"""Which rows a batch holds: a pure function of how many were drawn before.

make_stream           rows in the order of the file
make_annealed_stream  more of the domains that the model is bad at
"""

from collections.abc import Callable

import grain
import numpy as np

from lib.grpo_settings import Settings


def make_stream(rows: list[dict], settings: Settings) -> Callable[[dict], list[dict]]:
  """progress → the next batch of rows; it moves progress["draws"] on.

  What comes next follows from `progress` alone: a resumed run draws what it would have. Rows come
  in file order, which prepare_data.py mixed so that every window holds the domains in proportion.
  """
  if settings.anneal_domains:
    return make_annealed_stream(rows, settings)
  size = settings.batch_size

  def batch_at(i: int) -> list[dict]:
    # Wraps around: of 10 rows by 4, batch 2 holds rows 8, 9, 0 and 1.
    return [rows[(i * size + j) % len(rows)] for j in range(size)]

  # Nothing is built ahead: Grain calls batch_at for the index that is asked for.
  batches = grain.MapDataset.range(2**31 - 1).map(batch_at)

  def draw(progress: dict) -> list[dict]:
    batch = batches[progress["draws"]]
    progress["draws"] += 1
    return batch

  return draw


def make_annealed_stream(rows: list[dict], settings: Settings) -> Callable[[dict], list[dict]]:
  """--anneal_domains: draws a domain ∝ its rows × max(0.1, 1 − its running pass rate).

  The rows of a domain come in file order. A domain that cannot be checked counts as one of the mean
  pass rate.
  """
  # Sorted, since a set of strings comes in another order in every process.
  by_domain = {domain: [] for domain in sorted({row["domain"] for row in rows})}
  for row in rows:
    by_domain[row["domain"]].append(row)

  def draw(progress: dict) -> list[dict]:
    # Seeded by the number of the draw, so a resume has no generator's state to restore.
    rng = np.random.default_rng((settings.seed, progress["draws"]))
    rates = progress["pass_rate"]
    # Nothing checked yet gives a mean of 0: the first draws follow the shares of the rows.
    mean_rate = sum(rates.values()) / max(1, len(rates))
    weights = []
    for domain, mine in by_domain.items():
      # Two domains with as many rows, at pass rates 0.9 and 0.2, are drawn 1 : 8. The floor keeps
      # a mastered domain in the batches, where one would see it being forgotten.
      weights.append(len(mine) * max(0.1, 1 - rates.get(domain, mean_rate)))
    shares = np.array(weights) / sum(weights)
    batch = []
    for domain in rng.choice(list(by_domain), settings.batch_size, p=shares):
      mine = by_domain[domain]
      # Each domain goes through its own rows, so none repeats before all were drawn.
      at = progress["cursors"].get(str(domain), 0)
      batch.append(mine[at % len(mine)])
      progress["cursors"][str(domain)] = at + 1
    progress["draws"] += 1
    return batch

  return draw
