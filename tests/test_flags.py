"""The flags are the public surface: one name means one thing, with one help text and one default,
in every script.
"""

import importlib
import re
import sys

import pytest
from conftest import REPO

from lib import command_line

STAGES = ("prepare_data", "train_sft", "train_grpo", "evaluate", "export_lora")
SCRIPTS = [name for name in STAGES if (REPO / f"{name}.py").is_file()]
# Flags whose default follows from what the stage is for; their help is still the same.
OWN_DEFAULT = {"out_dir", "temperature", "model"}
# Flags that mean the same but say more about their stage, or whose sensible value differs: default
# and help may differ.
OWN_TEXT = {
  "learning_rate",
  "weight_decay",
  "max_grad_norm",
  "batch_size",
  "micro_batch_size",
  "limit",
  "rewards",
  "code_rewards",
  "judge_url",
  "judge_model",
  "max_prompt_tokens",
  "checkpoint",
}


def flags_of(script: str) -> dict:
  found = importlib.import_module(script).FLAGS
  return {name: found[name] for name in found}


@pytest.mark.parametrize("script", SCRIPTS)
def test_same_name_same_meaning(script):
  for other in SCRIPTS[: SCRIPTS.index(script)]:
    mine, theirs = flags_of(script), flags_of(other)
    for name in sorted(mine.keys() & theirs.keys()):
      where = f"--{name} of {script}.py and {other}.py"
      assert type(mine[name].parser) is type(theirs[name].parser), where
      if name in OWN_TEXT:
        continue
      assert mine[name].help == theirs[name].help, where
      if name not in OWN_DEFAULT:
        assert mine[name].default == theirs[name].default, where


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_is_explained_in_a_sentence(script):
  for name, flag in flags_of(script).items():
    assert len(flag.help or "") > 10 and flag.help.endswith("."), f"--{name}: {flag.help!r}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_flag(script, monkeypatch, capsys):
  stage = importlib.import_module(script)
  monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
  command_line.launch(stage.main, stage.FLAGS, stage.__doc__)
  said = capsys.readouterr().out
  assert "\nReads " in said and "\nWrites " in said
  assert [name for name in flags_of(script) if not re.search(rf"--(\[no\])?{name}:", said)] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_keep_their_flags_apart(script):
  """Two scripts in one process never collide: none defines a flag on absl's global object."""
  from absl import flags

  importlib.import_module(script)
  assert not {"data_dir", "out_dir", "seed"} & set(flags.FLAGS)
