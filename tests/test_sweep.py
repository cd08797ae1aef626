"""`evaluate.py --table` over several runs, and `--ask`: what a user sees of a sweep, and of a
single answer.
"""

import csv
import io
import json
import os
import re

import pytest
from conftest import one_line_error, process, run, run_well
from rich.console import Console

import evaluate
from lib import asking, lineage, sweep
from lib.errors import InputError

GRPO_FLAGS = {
  "learning_rate": 1e-6,
  "beta": -1.0,
  "algorithm": "grpo",
  "seed": 0,
  "out_dir": "a",
  "rewards": "multi_domain",
}


def response(number: int, right: bool) -> dict:
  return {"id": f"r{number}", "question": f"q{number}", "domain": "math", "correct": right}


def write_run(folder, right: set[int], rows: str = "same", **changed):
  """A run's eval_grpo of 20 questions, of which those in `right` were answered."""
  out = folder / "eval_grpo"
  out.mkdir(parents=True)
  share = len(right) / 20
  overall = {"n": 20, "questions": 20, "accuracy": share, "accuracy_ci": [share - 0.1, share + 0.1]}
  overall |= {
    "format_rate": 1.0,
    "format_ci": [0.8, 1.0],
    "mean_reward": None,
    "mean_reward_ci": None,
  }
  stage = {"stage": "grpo", "steps": 9, "flags": GRPO_FLAGS | {"out_dir": str(folder)} | changed}
  results = {"overall": overall, "domains": {}, "rows": rows, "seed": 0, "trained": [stage]}
  (out / "results.json").write_text(json.dumps(results))
  lines = [json.dumps(response(number, number in right)) + "\n" for number in range(20)]
  (out / "responses.jsonl").write_text("".join(lines))
  return str(folder)


@pytest.fixture()
def runs(tmp_path) -> list[str]:
  low = write_run(tmp_path / "low", set(range(8)))
  high = write_run(tmp_path / "high_rate", set(range(16)), learning_rate=2e-5)
  seed = write_run(tmp_path / "seed_1", set(range(1, 9)), seed=1)
  return [low, high, seed]


def test_a_sweep_shows_what_differs_and_pairs_against_the_first(runs):
  said = run_well(evaluate, table=",".join(runs), table_format="csv")
  rows = list(csv.DictReader(io.StringIO(said)))
  assert [row["run"] for row in rows] == runs
  assert [row["learning_rate"] for row in rows] == ["1e-06", "2e-05", "1e-06"]
  assert [row["seed"] for row in rows] == ["0", "0", "1"]
  assert "beta" not in rows[0] and "out_dir" not in rows[0]  # the same, and no setting
  assert rows[0]["accuracy_change"] == ""
  # Eight questions gained and none lost: 2 / 2⁸. Then one gained and one lost.
  assert float(rows[1]["accuracy_change"]) == pytest.approx(0.4)
  assert float(rows[1]["p"]) == pytest.approx(2 / 256)
  assert (float(rows[2]["accuracy_change"]), float(rows[2]["p"])) == (0.0, 1.0)


def test_text_markdown_and_latex_hold_the_same_numbers(runs, capsys):
  for table_format in ("text", "markdown", "latex"):
    sweep.print_sweep(runs, table_format)
    said = capsys.readouterr().out
    for part in ("learning rate", "2e-5", "80.0", "40.0", "0.008"):
      assert part in said, (table_format, part)
    assert "mean reward" in said and "None" not in said
  assert r"\begin{tabular}{lrr" in said and r"80.0\% [70.0, 90.0]" in said
  assert r"high\_rate" in said and said.count(r"\\") == 4


def test_runs_on_other_rows_are_refused(runs, tmp_path):
  other = write_run(tmp_path / "other", {1}, rows="others")
  result = run(evaluate, table=f"{runs[0]},{other}")
  one_line_error(result, "was evaluated on other rows", "--limit")
  with pytest.raises(InputError, match="does not exist"):
    sweep.read_entries([str(tmp_path / "nowhere")])


def test_missing_responses_leave_the_change_out_and_say_so(runs, capsys):
  os.remove(f"{runs[1]}/eval_grpo/responses.jsonl")
  sweep.print_sweep(runs[:2], "markdown")
  said = capsys.readouterr().out
  assert "no responses.jsonl beside its results" in said and "80.0%" in said


def test_a_table_needs_no_notebook_backend(runs):
  """A kernel exports its plotting backend to what it starts, where that module may not be
  installed.
  """
  result = process("evaluate.py", env={"MPLBACKEND": "module://not_here.backend"}, table=runs[0])
  assert result.returncode == 0, result.stderr
  assert "40.0%" in result.stdout


# ---- how a checkpoint came to be
def write_stage(folder, stage: str, **flags):
  folder.mkdir(parents=True)
  config = {"stage": stage, "steps": 7, "git_commit": "abc", "given": ["--seed=3"], "flags": flags}
  (folder / "config.json").write_text(json.dumps(config))


def test_the_stages_behind_a_checkpoint_are_found_where_they_lie(tmp_path):
  first = dict(learning_rate=0.0, lora_rank=0, seed=3)
  write_stage(tmp_path / "run" / "sft", "sft", **first)
  second = GRPO_FLAGS | {"init_from": "moved/away/sft", "lora_rank": 16}
  write_stage(tmp_path / "run" / "grpo", "grpo", **second)
  stages = lineage.trained_stages(str(tmp_path / "run" / "grpo" / "best"))
  assert [stage["stage"] for stage in stages] == ["sft", "grpo"]
  header, rows = lineage.settings_table(stages)
  table = {row[0]: row[1:] for row in rows}
  assert header == ["setting", "SFT", "GRPO"]
  # The sentinels are resolved: SFT of all parameters at 2e-5, GRPO's published β.
  assert table["learning rate"] == ["2e-5", "1e-6"] and table["KL weight β"] == ["–", "0.04"]
  assert table["LoRA rank"] == ["none: all parameters", "16"] and table["steps"] == ["7", "7"]
  assert lineage.command(stages[1]) == "python train_grpo.py \\\n  --seed=3"
  assert "GRPO, 7 steps at learning rate 1e-6, β 0.04" in lineage.headline(stages)
  assert lineage.trained_stages("") == [] and lineage.trained_stages(str(tmp_path)) == []


# ---- asking
@pytest.mark.parametrize(
  "text, shown",
  [
    (
      "<reasoning>Two and two.</reasoning>\n<answer>4</answer>",
      "Reasoning\nTwo and two.\n\nAnswer\n4",
    ),
    ("no tags at all", "no tags at all"),
    ("a\x1b[31m < b", "a\\x1b[31m < b"),
  ],
)
def test_tags_become_headings(text, shown):
  assert asking.readable(text) == shown


def test_what_is_shown_of_an_unfinished_answer_only_grows():
  text = "<reasoning>One < two.\n\n  Then three.</reasoning>\n<answer>3</answer>"
  shown = ""
  for end in range(len(text) + 1):
    grown = asking.readable(text[:end], finished=False)
    assert grown.startswith(shown), (shown, grown)
    shown = grown
  assert asking.readable(text).startswith(shown)


def test_asking_before_and_after_training(sft_dir, tmp_path, monkeypatch):
  """The prompt of the command line reaches both models; no data folder is needed."""
  monkeypatch.chdir(tmp_path)
  said = run_well(evaluate, ask="What is 2 + 3?", checkpoint=sft_dir, max_new_tokens=40)
  before, after = said.split("--- After SFT")
  assert before.startswith("--- Before training") and len(before) > 40
  assert "Reasoning" in after and "<reasoning>" not in after and "format: " in after


def test_asking_nothing_or_without_a_tokenizer_is_one_line(tmp_path):
  one_line_error(run(evaluate, ask=" "), "--ask is empty")
  missing = run(evaluate, ask="x", data_dir=tmp_path / "none")
  one_line_error(missing, "no tokenizer.model", "--checkpoint or --data_dir")


def test_two_answers_stand_side_by_side():
  """On a terminal: a column a model, its heading on top, the answer under its own."""
  texts = {
    "Before training": "cat cat [bold]cat[/bold]",
    "After GRPO": "<reasoning>12 and 7.</reasoning>\n<answer>19</answer>",
  }
  console = Console(width=80, file=io.StringIO())
  console.print(asking.side_by_side(texts))
  lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
  assert re.fullmatch(r"Before training +After GRPO", lines[0])
  assert re.fullmatch(r"cat cat \[bold\]cat\[/bold\] +Reasoning", lines[1])  # no markup of ours
  assert [line.strip() for line in lines[2:]] == ["12 and 7.", "", "Answer", "19"]
