"""What a run will take, asked before it starts."""

import shutil
from typing import NamedTuple
from unittest import mock

import pytest

from lib import run_size
from lib.errors import InputError


class Shape(NamedTuple):
  """Of a published Gemma 3, from its config.json."""

  layers: int
  width: int
  hidden: int
  heads: int  # all heads of a layer, in features
  kv_heads: int


SHAPES = {
  "270m": Shape(18, 640, 2048, 1024, 256),
  "1b": Shape(26, 1152, 6912, 1024, 256),
  "4b": Shape(34, 2560, 10240, 2048, 1024),
  "12b": Shape(48, 3840, 15360, 4096, 2048),
  "27b": Shape(62, 5376, 21504, 4096, 2048),
}


@pytest.mark.parametrize("size", SHAPES)
def test_adapters_are_never_underestimated_nor_doubled(size):
  shape = SHAPES[size]
  attention = 2 * (shape.width + shape.heads) + 2 * (shape.width + shape.kv_heads)
  mlp = 3 * (shape.width + shape.hidden)
  true_count = 16 * shape.layers * (attention + mlp)
  estimate = run_size.count_trained(run_size.PARAMETERS[size], 16)
  assert true_count <= estimate < 1.5 * true_count


@pytest.mark.parametrize(
  "model,billions",
  [
    ("gemma-3-1b-it", 1.0),
    ("google/gemma-3-4b-it", 3.88),
    ("hf:somebody/gemma3-12B-math", 11.8),
    ("kaggle:google/gemma-3/transformers/gemma-3-270m-it/1", 0.268),
    ("tiny", None),
    ("somebody/a11b-model", None),
    ("somebody/other-2.1b", None),
  ],
)
def test_a_name_says_the_size(model, billions):
  found = run_size.count_parameters(model)
  assert found == (billions and pytest.approx(billions * 1e9))


def test_a_folder_is_as_large_as_its_files(tmp_path):
  (tmp_path / "model-00001-of-00002.safetensors").write_bytes(bytes(600))
  (tmp_path / "model-00002-of-00002.safetensors").write_bytes(bytes(400))
  assert run_size.count_parameters(str(tmp_path)) == 500


def commands(out, *flags: str) -> list[list[str]]:
  made = {"train_sft.py": "sft", "train_grpo.py": "grpo", "export_lora.py": "export"}
  return [[script, f"--out_dir={out}/{name}", *flags] for script, name in made.items()]


def test_stages_are_summed_and_begun_ones_left_out(tmp_path):
  full = commands(tmp_path / "new", "--model=gemma-3-1b-it", "--lora_rank=16", "--lora_rank=0")
  usage = shutil.disk_usage(tmp_path)
  with mock.patch.object(run_size.shutil, "disk_usage", lambda _: usage._replace(free=89.9e9)):
    with pytest.raises(InputError, match=r"89\.9 GB free, .* up to 90\.0 GB"):
      run_size.ask(full)
    (tmp_path / "new/sft/checkpoints").mkdir(parents=True)
    assert run_size.ask(full).startswith("up to 50.0 GB of 90 GB free disk; 20.0 GB of accelerator")
    assert run_size.ask(full[2:]) == "up to 10.0 GB of 90 GB free disk"
  assert run_size.ask([["evaluate.py", "--model=gemma-3-1b-it"]]) == ""


def test_flags_as_absl_takes_them():
  words = ["train_sft.py", "-model=a=b", "--lora_rank=4", "stray", "stray=1", "--remat"]
  assert run_size.read_stage(words) == run_size.Stage("train_sft.py", "", "a=b", 4)
