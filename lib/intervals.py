"""How sure is a number that came out of some hundred questions? Intervals for rates and means, and
two exact counts.

In reading order: `wilson` for a rate, `bootstrap` for any mean, `mcnemar` for a paired change,
`pass_at_k` for several samples.
"""

import math

import numpy as np

Z_95 = 1.959964  # half of a normal distribution's middle 95%, in standard deviations
RESAMPLES_AT_ONCE = 500  # of the bootstrap: what is in memory together


def mean(values) -> float | None:
  """Mean of the values that are known (not None); None where none is."""
  # A creative answer is neither right nor wrong: it must not count as wrong.
  known = [value for value in values if value is not None]
  return float(np.mean(known)) if known else None


def wilson(successes: float, n: int, z: float = Z_95) -> list[float] | None:
  """95% score interval [low, high] of a rate (Wilson 1927); None when n is 0.

  Unlike p ± z·σ it stays inside [0, 1] and has a width at 0 of n and at n of n. `successes` may be
  fractional: a mean over several samples of a question.
  """
  if n == 0:
    return None
  rate = successes / n
  # The interval is every rate under which this count would not surprise; solving for it gives a
  # centre pulled toward one half and a width that stays open at 0 of n.
  shrink = 1 + z * z / n
  center = rate + z * z / (2 * n)
  variance = rate * (1 - rate) / n
  half = z * math.sqrt(variance + z * z / (4 * n * n))
  low = max(0.0, (center - half) / shrink)
  high = min(1.0, (center + half) / shrink)
  return [round(low, 9), round(high, 9)]


def bootstrap(values, groups, seed: int = 0, resamples: int = 10_000) -> list[float] | None:
  """95% percentile interval [low, high] of the mean of `values` (Efron 1979); None without values.

  Whole groups are drawn again, not single values: rows that ask the same question are one
  observation, however many they are.
  """
  if not len(values):
    return None
  # Sums and counts by group are enough: a resample is then two look-ups and a division.
  group_of_value = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
  sums = np.bincount(group_of_value, weights=np.asarray(values, float))  # (G,)
  counts = np.bincount(group_of_value)  # (G,)
  # In slices: 10,000 resamples of 5,000 groups at once would take 400 MB.
  rng = np.random.default_rng(seed)
  means = []
  for _ in range(resamples // RESAMPLES_AT_ONCE):
    picks = rng.integers(len(sums), size=(RESAMPLES_AT_ONCE, len(sums)))  # (R, G) groups
    means.append(sums[picks].sum(1) / counts[picks].sum(1))
  return np.quantile(np.concatenate(means), (0.025, 0.975)).tolist()


def mcnemar(gained: int, lost: int) -> float:
  """Exact two-sided p-value of `gained` against `lost` changed pairs (McNemar 1947, in its binomial
  form).

  If nothing had changed, each changed pair would be a fair coin: 5 gained and 1 lost is 14 of 64
  outcomes, p = 0.22.
  """
  changed = gained + lost
  # Unchanged pairs say nothing about the direction, so they are left out.
  as_uneven = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
  return min(1.0, 2 * as_uneven / 2**changed)


def pass_at_k(n: int, c: int, k: int) -> float:
  """Chance that k of n samples, c of them right, hold a right one: unbiased (Chen et al. 2021,
  arXiv:2107.03374, eq. 1).
  """
  # All ways to draw k wrong samples, over all ways to draw k.
  return 1.0 - math.comb(n - c, k) / math.comb(n, k)
