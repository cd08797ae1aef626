"""The flags of train_grpo.py as plain values: sentinels resolved, sizes checked before anything is
compiled.

PUBLISHED       what each algorithm's paper uses where the flags say nothing
check_flags     refuses what does not go together
read_settings   flags → Settings
read_thresholds --phase_metrics
"""

import importlib.util
import re
from typing import NamedTuple

from lib import contract, own_rewards
from lib.answer_packing import RowShape
from lib.errors import InputError


class Published(NamedTuple):
  """Values of a paper, for flags left at their sentinels."""

  beta: float
  epsilon: float
  epsilon_high: float
  dynamic_sampling: int


PUBLISHED = {
  # β of the KL: 2402.03300 §4.2.
  "grpo": Published(beta=0.04, epsilon=0.2, epsilon_high=0.2, dynamic_sampling=0),
  # No KL: 2503.20783 §3.2.
  "dr_grpo": Published(beta=0.0, epsilon=0.2, epsilon_high=0.2, dynamic_sampling=0),
  # No KL: 2503.14476 §2.3; clip-higher: §3.1. Its dynamic sampling draws on without a bound.
  "dapo": Published(beta=0.0, epsilon=0.2, epsilon_high=0.28, dynamic_sampling=3),
  # Its objective, 2507.18071 eq. 5, has no KL; clip range: §5.1.
  "gspo": Published(beta=0.0, epsilon=3e-4, epsilon_high=4e-4, dynamic_sampling=0),
}


class Settings(NamedTuple):
  """What the learner needs of the flags, under their names."""

  # The objective.
  algorithm: str
  beta: float
  domain_beta: dict[str, float]
  epsilon: float
  epsilon_high: float
  mask_truncated: bool
  reference: bool  # one is loaded, for the KL
  # A batch.
  batch_size: int  # prompts
  rollout_batch_size: int  # prompts sampled at once
  num_generations: int
  num_iterations: int
  dynamic_sampling: int
  replace_by: str  # reward or accuracy
  anneal_domains: bool
  seed: int
  # Shapes.
  prompt_widths: tuple[int, ...]  # padded prompt lengths for sampling, ascending
  max_new_tokens: int
  row_shape: RowShape  # of packed rows
  sliding_window: int  # of the model, in tokens
  remat: bool
  # Answers and what they earn.
  temperature: float
  style: str  # of the data
  rewards: str
  overlong_buffer: int
  code_rewards: str = "on"
  importance_cap: float = 0.0  # 0: no correction


def read_domain_beta(items: list[str]) -> dict[str, float]:
  """["math=0.02", …] → {"math": 0.02, …}."""
  domain = "|".join(contract.DOMAINS)
  found = {}
  for item in items:
    if not re.fullmatch(rf"({domain})=\d*\.?\d+(e-?\d+)?", item):
      raise InputError(
        f"--domain_beta has {item!r}; expected name=number, "
        f"names valid: {', '.join(contract.DOMAINS)}"
      )
    name, value = item.split("=")
    found[name] = float(value)
  return found


def check_flags(flag):
  """Refuses values that do not fit each other: all that needs no model and no rows."""
  read_domain_beta(flag.domain_beta)
  read_thresholds(flag, has_validation=flag.eval_rows > 0)
  if flag.wandb and not importlib.util.find_spec("wandb"):
    raise InputError("--wandb needs the wandb package: pip install wandb, or leave the flag out")
  sampled = flag.rollout_batch_size or flag.batch_size
  if flag.batch_size % sampled:
    raise InputError(
      f"--batch_size={flag.batch_size} is not a multiple of --rollout_batch_size={sampled}; "
      "choose a divisor"
    )
  if not 0 <= flag.overlong_buffer <= flag.max_new_tokens:
    raise InputError(
      f"--overlong_buffer={flag.overlong_buffer} is not within 0 and "
      f"--max_new_tokens={flag.max_new_tokens}"
    )
  if 0 < flag.importance_cap < 1:
    raise InputError(
      f"--importance_cap={flag.importance_cap:g} is below 1, the weight of a token that sampler "
      "and learner agree on; use 2, or 0 for no correction"
    )
  if flag.importance_cap and flag.rollout_engine != "vanilla":
    raise InputError(
      f"--importance_cap needs log-probs that --rollout_engine={flag.rollout_engine} does not "
      "give here; use --rollout_engine=vanilla"
    )
  if flag.temperature <= 0:
    raise InputError(
      f"--temperature={flag.temperature}: GRPO needs answers that differ; "
      "use a value above 0, such as 0.7"
    )


def read_settings(
  flag, prompt_widths: tuple[int, ...], style: str, row_shape: RowShape, sliding_window: int
) -> Settings:
  """The flags with their sentinels resolved. style: of the data."""
  check_flags(flag)
  published = PUBLISHED[flag.algorithm]
  domain_beta = read_domain_beta(flag.domain_beta)
  beta = flag.beta if flag.beta >= 0 else published.beta
  # One bound means both, but clip-higher keeps its own upper one.
  epsilon_high = published.epsilon_high
  if flag.epsilon and flag.algorithm != "dapo":
    epsilon_high = flag.epsilon
  dynamic_sampling = flag.dynamic_sampling
  if dynamic_sampling < 0:
    dynamic_sampling = published.dynamic_sampling
  return Settings(
    algorithm=flag.algorithm,
    beta=beta,
    domain_beta=domain_beta,
    epsilon=flag.epsilon or published.epsilon,
    epsilon_high=flag.epsilon_high or epsilon_high,
    mask_truncated=flag.mask_truncated,
    reference=beta > 0 or any(domain_beta.values()),
    batch_size=flag.batch_size,
    rollout_batch_size=flag.rollout_batch_size or flag.batch_size,
    num_generations=flag.num_generations,
    num_iterations=flag.num_iterations,
    dynamic_sampling=dynamic_sampling,
    replace_by=flag.replace_by,
    anneal_domains=flag.anneal_domains,
    seed=flag.seed,
    prompt_widths=prompt_widths,
    max_new_tokens=flag.max_new_tokens,
    row_shape=row_shape,
    sliding_window=sliding_window,
    remat=flag.remat,
    temperature=flag.temperature,
    style=style,
    rewards=flag.rewards,
    overlong_buffer=flag.overlong_buffer,
    code_rewards=flag.code_rewards,
    importance_cap=flag.importance_cap,
  )


def read_thresholds(flag, has_validation: bool) -> list[float]:
  """--phase_metrics as two rates, format and accuracy; [] where phases follow the step."""
  if not flag.phase_metrics:
    return []
  try:
    found = [float(value) for value in flag.phase_metrics]
  except ValueError:
    found = []
  rates = len(found) == 2 and all(0 <= rate <= 1 for rate in found)
  evaluated = has_validation and flag.eval_every
  curriculum = "curriculum" in own_rewards.system_names(flag.rewards)
  if not (rates and evaluated and curriculum):
    raise InputError(
      f"--phase_metrics={','.join(flag.phase_metrics)}: expected two rates in 0 to 1, format and "
      "accuracy, such as 0.9,0.5, together with --rewards=curriculum, validation rows "
      "(--eval_rows) and --eval_every above 0"
    )
  return found
