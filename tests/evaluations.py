"""Rows, responses and facts that the tests of evaluation share; their text is our own."""

import json
import pathlib

from absl import flags

import evaluate
import rewards
from lib import contract, folders, jsonl, verdicts

REPO = pathlib.Path(evaluate.__file__).parent
SYSTEMS = {name: rewards.make_rewards(name) for name in rewards.SYSTEMS}


def make_row(i, domain, question, answer, **metadata):
  return {
    "id": f"{domain}-{i}",
    "domain": domain,
    "question": question,
    "prompt": contract.format_prompt(question),
    "answer": answer,
    "target": contract.format_response(f"We read the task. {question}", answer),
    "metadata": metadata,
  }


def make_rows(n):
  """5 n rows: n in each of five domains."""
  rows = []
  for i in range(n):
    a, b = i + 2, 7 * i % 11 + 1
    rows += [
      make_row(
        i, "math", f"Ann has {a} pens and buys {b} more. How many pens has she?", str(a + b)
      ),
      make_row(i, "logic", f"Is {a} larger than {b}?", "yes" if a > b else "no"),
      make_row(
        i,
        "science",
        f"Which is heavier, {a} kg of ice or {b} kg of iron?",
        "ice" if a > b else "iron",
      ),
      make_row(
        i,
        "coding",
        f"Write add{i}(x), which returns x + {i}.",
        f"def add{i}(x):\n  return x + {i}",
        test_cases=[f"assert add{i}(1) == {i + 1}", f"assert add{i}(-1) == {i - 1}"],
        entry_point=f"add{i}",
      ),
      make_row(i, "creative_writing", f"Write a line about {a} cats.", ""),
    ]
  return rows


def write_data(folder, train, test, style="tags"):
  folder.mkdir(parents=True, exist_ok=True)
  for name, rows in (("train", train), ("test", test)):
    jsonl.write_text(folder / f"{name}.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
  folders.write_config(folder, "prepare_data", flags.FlagValues(), style)
  return folder


def respond(rows, text, sample=0):
  """Scored responses; text(row) -> str."""
  responses = [
    {
      **{k: r[k] for k in ("id", "domain", "question", "prompt", "answer", "metadata")},
      "sample": sample,
      "response": text(r),
      "tokens": len(text(r).split()),
      "truncated": False,
    }
    for r in rows
  ]
  return verdicts.score(responses, "tags", SYSTEMS)


def well(answer):
  return contract.format_response("First we read the task, then we count.", answer)


def plain(i, correct=0.0, format_ok=True, question=None, domain="math", **more):
  """A minimal scored response for the statistics."""
  correct = None if correct is None else bool(correct)
  return {
    "id": f"r{i}",
    "question": question or f"q{i}",
    "domain": domain,
    "sample": 0,
    "correct": correct,
    "format": format_ok,
    "correct_lenient": correct,
    "lenient_format": format_ok,
    "truncated": False,
    "partial": correct,
    "tokens": 5,
    "parsed_answer": None,
    "rewards": {s: {"a": float(correct or 0)} for s in rewards.SYSTEMS},
    **more,
  }


FACTS = {
  "check_failures": {},
  "contamination": None,
  "judge": None,
  "prompt_variant": "",
  "prompt_mismatch": False,
  "temperature": 0.0,
  "samples": 1,
  "seed": 0,
  "recipe": "multi_domain",
  "by": "",
  "max_new_tokens": 64,
}
