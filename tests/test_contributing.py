"""CONTRIBUTING.md does what it says: each diff is applied to a copy of this tree, and run."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
DIFFS = re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)
# What a response of responses.jsonl holds that the summary reads.
RESPONSE = {
  "id": "r-1",
  "domain": "math",
  "question": "?",
  "response": "So it is 4, because 2 + 2 = 4",
  "tokens": 12,
  "truncated": False,
  "format": True,
  "lenient_format": True,
  "parsed_answer": "4",
  "correct": True,
  "correct_lenient": True,
  "partial": 1.0,
  "rewards": {"multi_domain": {"format": 0.2}, "four_component": {"format": 0.25}},
}


@pytest.fixture()
def copy(tmp_path):
  """The scripts and lib/, to be changed."""
  shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
  for path in ROOT.glob("*.py"):
    shutil.copy(path, tmp_path)
  return tmp_path


def diff_of(file: str) -> str:
  (found,) = [diff for diff in DIFFS if f"+++ b/{file}\n" in diff]
  return found


def apply(copy: pathlib.Path, file: str):
  """Applies the page's diff of `file`; a context line a side is enough, as files grow."""
  command = ["git", "apply", "-C1", "--recount", "-"]
  result = subprocess.run(command, cwd=copy, input=diff_of(file), text=True, capture_output=True)
  assert result.returncode == 0, result.stderr


def python(copy: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, *arguments], cwd=copy, capture_output=True, text=True, timeout=300
  )


def test_it_is_one_page():
  assert len(PAGE.splitlines()) < 150 and len(DIFFS) >= 2


def test_own_reward(copy):
  (example,) = re.findall(r"```python\n# my_reward.py\n(.*?)```", PAGE, re.DOTALL)
  (copy / "my_reward.py").write_text(example)
  alone, beside = "my_reward.py:shows_steps", "multi_domain,my_reward.py:shows_steps"
  assert f"--self_test --rewards={beside}" in PAGE
  result = python(copy, "rewards.py", "--self_test", f"--rewards={beside}")
  assert result.returncode == 0, result.stderr
  result = python(copy, "rewards.py", "--self_test", f"--rewards={alone}")
  assert result.returncode == 2 and "pays 22 known cheats" in result.stderr
  assert "22 of the 29 known cheats" in PAGE


def test_own_component(copy):
  apply(copy, "rewards.py")
  result = python(copy, "rewards.py", "--self_test")
  assert result.returncode == 0 and "0 failures" in result.stdout, result.stderr
  row = {"domain": "math", "question": "?", "answer": "4", "metadata": {}}
  row["response"] = "<reasoning>2 + 2</reasoning>\n<answer>4!</answer>"
  (copy / "responses.jsonl").write_text(json.dumps(row) + "\n")
  result = python(copy, "rewards.py", "--explain=responses.jsonl", "--rewards=multi_domain")
  assert result.returncode == 0, result.stderr
  assert re.search(r"calm +-0.100 of 0.00", result.stdout)
  assert "calm: up to 0.10 more: an answer without exclamation marks" in result.stdout


def test_own_data_set(copy):
  """--sources takes the new name, and what a record lacks is said as for any other set."""
  apply(copy, "lib/public_sources.py")
  (copy / "raw").mkdir()
  records = []
  for i in range(60):
    story = f"{i} crates of lemons arrive at stall {i * 7}."
    record = {"Body": story, "Question": f"How many are {i} and 2 crates?", "Answer": f"{i + 2}.0"}
    records.append(json.dumps(record) + "\n")
  (copy / "raw/svamp.jsonl").write_text("".join(records))
  flags = ["--raw_dir=raw", "--train_size=40", "--val_size=5", "--test_size=5", "--out_dir=data"]
  result = python(copy, "prepare_data.py", "--sources=svamp", *flags)
  assert result.returncode == 0, result.stderr
  row = json.loads((copy / "data/train.jsonl").read_text().splitlines()[0])
  assert row["domain"] == "math" and row["metadata"]["source"] == "svamp"
  assert row["answer"].isdigit() and "crates of lemons arrive" in row["prompt"]


def test_own_metric(copy):
  apply(copy, "lib/summary.py")
  apply(copy, "lib/tables.py")
  (copy / "responses.json").write_text(json.dumps([RESPONSE, RESPONSE | {"id": "r-2"}]))
  program = """
import json
from lib import summary, tables
responses = json.load(open("responses.json"))
overall = summary.summarize(responses, "multi_domain")
header, rows = tables.domain_table({"overall": overall, "domains": {"math": overall}})
print(json.dumps([overall["because_rate"], overall["because_ci"], dict(zip(header, rows[-1]))]))
"""
  result = python(copy, "-c", program)
  assert result.returncode == 0, result.stderr
  rate, interval, cells = json.loads(result.stdout)
  assert rate == 1.0 and interval[0] < 1.0 == interval[1] and cells["because"] == "100.0%"
