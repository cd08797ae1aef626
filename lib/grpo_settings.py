"""TODO-DOC grpo_settings."""

import re
from typing import NamedTuple

from lib import contract, own_rewards
from lib.errors import InputError

PUBLISHED = {  # algorithm: beta, epsilon, epsilon_high, dynamic_sampling where the flags say nothing
  "grpo": (0.04, 0.2, 0.2, 0),  # beta: 2402.03300 §4.2
  "dr_grpo": (0.0, 0.2, 0.2, 0),  # no KL: 2503.20783
  "dapo": (
    0.0,
    0.2,
    0.28,
    3,
  ),  # no KL: 2503.14476 §2.3, clip-higher: §3.1; it draws on without a bound
  "gspo": (0.04, 3e-4, 4e-4, 0),  # clip: 2507.18071 §5.1
}


class Settings(NamedTuple):
  """What the learner needs of the flags, under their names, sentinels resolved."""

  algorithm: str
  batch_size: int
  micro_batch_size: int
  rollout_batch_size: int
  num_generations: int
  num_iterations: int
  beta: float
  domain_beta: dict[str, float]
  epsilon: float
  epsilon_high: float
  dynamic_sampling: int
  mask_truncated: bool
  overlong_buffer: int
  anneal_domains: bool
  temperature: float
  max_new_tokens: int
  prompt_widths: tuple[int, ...]  # padded prompt lengths, ascending
  seed: int
  remat: bool
  style: str  # of the data
  rewards: str
  code_rewards: str = "on"
  reference: bool = True  # one is loaded, for the KL
  packed: bool = True  # the answers of a prompt share sequences (see model.completion_hidden); False: a sequence each


def read_domain_beta(items: list[str]) -> dict[str, float]:
  """["math=0.02", …] → {"math": 0.02}."""
  for item in items:
    if not re.fullmatch(rf"({'|'.join(contract.DOMAINS)})=\d*\.?\d+(e-?\d+)?", item):
      raise InputError(
        f"--domain_beta has {item!r}; expected name=number, names valid: {', '.join(contract.DOMAINS)}"
      )
  return {name: float(value) for name, value in (item.split("=") for item in items)}


def read_settings(flag, prompt_widths, style: str, fsdp: int) -> Settings:
  """The flags as plain values, with sentinels resolved and sizes checked before anything is compiled."""
  micro, at_once = (
    flag.micro_batch_size or flag.batch_size,
    flag.rollout_batch_size or flag.batch_size,
  )
  for name, size in (("micro_batch_size", micro), ("rollout_batch_size", at_once)):
    if flag.batch_size % size:
      raise InputError(
        f"--batch_size={flag.batch_size} is not a multiple of --{name}={size}; choose a divisor"
      )
  if micro * flag.num_generations % fsdp:
    raise InputError(
      f"--micro_batch_size={micro} prompts × {flag.num_generations} answers do not divide over {fsdp} fsdp devices; "
      f"make their product a multiple of {fsdp}, or use --mesh with fewer"
    )
  if not 0 <= flag.overlong_buffer <= flag.max_new_tokens:
    raise InputError(
      f"--overlong_buffer={flag.overlong_buffer} is not within 0 and --max_new_tokens={flag.max_new_tokens}"
    )
  if flag.temperature <= 0:
    raise InputError(
      f"--temperature={flag.temperature}: GRPO needs answers that differ; use a value above 0, such as 0.7"
    )
  values, domain_beta = (
    {name: flag[name].value for name in Settings._fields if name in flag},
    read_domain_beta(flag.domain_beta),
  )
  beta, epsilon, epsilon_high, draws = PUBLISHED[flag.algorithm]
  if (
    flag.epsilon and flag.algorithm != "dapo"
  ):  # one bound means both; clip-higher keeps its own upper one
    epsilon_high = flag.epsilon
  beta = flag.beta if flag.beta >= 0 else beta
  return Settings(
    **values
    | dict(
      micro_batch_size=micro,
      rollout_batch_size=at_once,
      beta=beta,
      domain_beta=domain_beta,
      epsilon=flag.epsilon or epsilon,
      epsilon_high=flag.epsilon_high or epsilon_high,
      prompt_widths=prompt_widths,
      style=style,
      dynamic_sampling=flag.dynamic_sampling if flag.dynamic_sampling >= 0 else draws,
      reference=beta > 0 or any(domain_beta.values()),
      packed=micro % fsdp == 0,
    )
  )


def read_thresholds(flag, held_out: list[dict]) -> list[float]:
  """--phase_metrics as two numbers; [] where phases follow the step."""
  try:
    found = [float(value) for value in flag.phase_metrics]
  except ValueError:
    found = [0.0]
  if (
    len(found) not in (0, 2)
    or found
    and not (
      "curriculum" in own_rewards.system_names(flag.rewards)
      and held_out
      and flag.eval_every
      and all(0 <= rate <= 1 for rate in found)
    )
  ):
    raise InputError(
      f"--phase_metrics={','.join(flag.phase_metrics)}: expected two rates in 0 to 1, format and accuracy, such as "
      "0.9,0.5, together with --rewards=curriculum, held-out rows (--eval_rows) and --eval_every above 0"
    )
  return found
