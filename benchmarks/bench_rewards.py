"""Speed of checking answers: numbers, whole responses, a batch with code, one hostile answer.

Prints one line each with its target and exits 1 where a target is missed; 2 cores suffice.

  python benchmarks/bench_rewards.py
"""

import json
import pathlib
import sys
import time

from absl import flags
from machine import machine_line

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import rewards
from lib import cheats, checking, code_checking, command_line, contract


def best_of(repeats: int, function) -> float:
  """Seconds of the fastest run: what the code costs, not what else the machine is doing."""
  seconds = []
  for _ in range(repeats):
    start = time.perf_counter()
    function()
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def math_rate(n: int, pair) -> float:
  """Checks a second of answers `pair(i)` = (answer, truth), no two alike: no cache can help."""
  seconds = []
  for round_ in range(5):
    pairs = [pair(i) for i in range(round_ * n, round_ * n + n)]
    start = time.perf_counter()
    for answer, truth in pairs:
      checking.is_correct("math", answer, truth)
    seconds.append(time.perf_counter() - start)
  return n / min(seconds)


def mixed_batch() -> float:
  """Seconds for all multi_domain functions on 64 completions of every domain, 8 of them code."""
  domains = ["coding"] * 8 + (
    ["math", "science", "logic", "creative_writing", "summarization", "creative_ideation", "math"]
    * 8
  )
  columns = {name: [] for name in ("domain", "question", "answer", "metadata")}
  texts = []
  for n, domain in enumerate(domains):
    task = cheats.TASKS[domain]
    answer = (task.right, task.honest)[n % 2]
    if domain == "coding":
      answer += f"\n# {n}"  # no two alike, as in training
    reasoning = f"Row {n}: " + cheats.REASONING.format(task.question)
    texts.append(contract.format_response(reasoning, answer))
    columns["domain"].append(domain)
    columns["question"].append(task.question)
    columns["answer"].append(task.truth)
    columns["metadata"].append(json.dumps(task.metadata))
  functions = rewards.make_rewards("multi_domain")

  def batch():
    code_checking.VERDICTS.clear()  # the code runs every time
    return [f(columns["question"], texts, **columns) for f in functions]

  batch()  # starts the sandbox
  return best_of(5, batch)


def hostile_answer() -> float:
  """Seconds for 100 KB that end in a power tower, the process killed at the limit included."""
  text = "1 + " * 25_000 + "\n9^{9^{9^{9}}} + \\sqrt{7}"
  return best_of(1, lambda: checking.is_correct("math", text, "\\sqrt{2}"))


def plain_number(i: int) -> tuple[str, str]:
  return str(i), str(i + i % 2)  # every other one wrong


def sentence(i: int) -> tuple[str, str]:
  return f"She pays ${i:,} for {i % 7 + 2} tickets.\nThe answer is {i:,} dollars.", str(i)


def main():
  print(machine_line(), flush=True)
  results = [
    ("plain numbers", math_rate(10_000, plain_number), 20_000, "checks/s", 1),
    ("sentences with sign and unit", math_rate(1_000, sentence), 3_000, "checks/s", 1),
    ("64 completions, 8 with code", mixed_batch(), 0.5, "s", -1),
    ("100 KB hostile answer", hostile_answer(), 10.0, "s", -1),
  ]
  missed = 0
  for name, value, target, unit, better in results:
    ok = (value - target) * better >= 0
    missed += not ok
    bound = "≥" if better > 0 else "≤"
    verdict = "ok" if ok else "MISSED"
    print(f"{name:<30} {value:>12,.3f} {unit:<9} target {bound} {target:,} {verdict}")
  sys.exit(1 if missed else 0)


if __name__ == "__main__":
  command_line.launch(main, flags.FlagValues(), __doc__)
