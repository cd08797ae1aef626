"""TODO-DOC intervals."""

import math

import numpy as np


# ------------------------------------------------------------------------------------------------------------- statistics
def mean(values) -> float | None:
  values = [v for v in values if v is not None]
  return float(np.mean(values)) if values else None


def wilson(successes: float, n: int, z: float = 1.959964) -> list | None:
  """95% score interval of a rate (Wilson 1927); None when n is 0. `successes` may be fractional (means over samples)."""
  if n == 0:
    return None
  p, z2 = successes / n, z * z
  center, half = p + z2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
  return [
    round(max(0.0, (center - half) / (1 + z2 / n)), 9),
    round(min(1.0, (center + half) / (1 + z2 / n)), 9),
  ]


def bootstrap(values, groups, seed: int = 0, resamples: int = 10_000) -> list | None:
  """95% percentile interval of the mean, resampling whole groups (Efron 1979): rows of one question are one observation."""
  if not len(values):
    return None
  codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
  sums, counts = np.bincount(codes, weights=np.asarray(values, float)), np.bincount(codes)
  rng = np.random.default_rng(seed)
  picks = (
    rng.integers(len(sums), size=(500, len(sums))) for _ in range(resamples // 500)
  )  # in slices: less memory
  return np.quantile(
    np.concatenate([sums[p].sum(1) / counts[p].sum(1) for p in picks]), (0.025, 0.975)
  ).tolist()


def mcnemar(gained: int, lost: int) -> float:
  """Exact two-sided p-value of `gained` against `lost` discordant pairs (McNemar 1947, binomial form)."""
  n = gained + lost
  return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(gained, lost) + 1)) / 2**n)


def pass_at_k(n: int, c: int, k: int) -> float:
  """Unbiased chance that k of n samples, c of them right, hold a right one (Chen et al. 2021, arXiv:2107.03374, eq. 1)."""
  return 1.0 - math.comb(n - c, k) / math.comb(n, k)
