"""Exports where others take them up: a multimodal base, GGUF, Hugging Face's Hub, a linked folder.

transformers and PEFT run in the Python of test_export.py. GGUF needs llama.cpp's repository: set
LLAMA_CPP to it; without one that test is skipped.
"""

import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import conftest
import numpy as np
import pytest
import safetensors.numpy
import test_loading
from test_export import lora_run, make_checkpoint, run, tokenizer  # noqa: F401 (fixtures)

from lib import contract, loading, parity, publishing, tokenization
from lib.errors import InputError

QUESTION = "What is 3 + 4?"


# Where a vision tower stands beside the text model: 4B and up.
@pytest.fixture(scope="module")
def multimodal(tmp_path_factory) -> pathlib.Path:
  """A random model in 4B's layout, saved by transformers, with what it says about images."""
  root = tmp_path_factory.mktemp("multimodal")
  (root / "4b").mkdir()
  (root / "4b/config.json").write_text(json.dumps(test_loading.transformers_4("4b")))
  (root / "tokens.json").write_text(json.dumps(test_loading.TOKENS))
  test_loading.run_torch(test_loading.torch_models, str(root))
  words = tokenization.train_tokenizer([contract.format_prompt(QUESTION)], 512)
  (root / "4b_5/tokenizer.model").write_bytes(words)
  processor = {"processor_class": "Gemma3Processor", "chat_template": "another prompt"}
  (root / "4b_5/processor_config.json").write_text(json.dumps(processor))
  return root / "4b_5"


@pytest.fixture(scope="module")
def exports(multimodal, tmp_path_factory) -> dict[str, pathlib.Path]:
  """What a LoRA run and a run of all parameters on it export: {"lora": folder, "full": folder}."""
  root = tmp_path_factory.mktemp("of_multimodal")
  for name, rank, scale in (("lora", 4, 0.05), ("full", 0, 0.02)):
    checkpoint = make_checkpoint(root / name / "grpo", str(multimodal), rank, scale)
    flags = [f"--model={multimodal}", f"--checkpoint={checkpoint}"]
    assert run(*flags, f"--out_dir={root / name / 'export'}") == 0
  return {name: root / name for name in ("lora", "full")}


def torch_logits(request):
  """Writes the logits of each of {name: [base, adapter or null, NAME.npy]}; see `run_torch`."""
  import json
  import pathlib

  import numpy as np
  import peft
  import torch
  import transformers

  asked = json.loads(pathlib.Path(request).read_text())
  for base, adapter, path in asked["models"]:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
      model = peft.PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
      np.save(path, model.eval()(torch.tensor([asked["tokens"]])).logits[0].numpy())


def test_a_multimodal_base_exports_whole_and_does_what_was_trained(multimodal, exports, tmp_path):
  lora = exports["lora"]
  full = exports["full"]
  models = {
    "base": (multimodal, None),
    "peft": (multimodal, lora / "export/peft"),
    "lora_merged": (lora / "export/merged", None),
    "full_merged": (full / "export/merged", None),
  }
  asked = []
  for name, (base, adapter) in models.items():
    asked.append([str(base), adapter and str(adapter), str(tmp_path / f"{name}.npy")])
  request = tmp_path / "request.json"
  request.write_text(json.dumps({"models": asked, "tokens": test_loading.TOKENS}))
  test_loading.run_torch(torch_logits, str(request))
  theirs = {name: np.load(tmp_path / f"{name}.npy") for name in models}  # (T, V)

  for name, checkpoint in (("peft", lora), ("lora_merged", lora), ("full_merged", full)):
    policy = loading.load_policy(str(multimodal), str(checkpoint / "grpo"), dtype="float32")
    ours = parity.jax_logits(policy.model, [test_loading.TOKENS], [0])[0]
    effect = np.abs(theirs[name] - theirs["base"]).max()
    # merged/ is rounded to bfloat16, the adapter is not.
    room = 0.1 * effect if "merged" in name else 1e-3 * np.std(ours)
    assert effect > 0.1 and np.abs(theirs[name] - ours).max() < room, name


def test_the_part_that_sees_images_travels_along(multimodal, exports):
  stored = safetensors.numpy.load_file(multimodal / "model.safetensors")
  images = {name.removeprefix("model."): x for name, x in stored.items() if "language" not in name}
  images.pop("lm_head.weight", None)  # the embedding again
  assert any(name.startswith("vision_tower.") for name in images)
  for run_folder in exports.values():
    merged = safetensors.numpy.load_file(run_folder / "export/merged/model.safetensors")
    for name, value in images.items():
      np.testing.assert_array_equal(merged[name], value.astype(merged[name].dtype), name)
    text = [name for name in merged if name.startswith("language_model.model.")]
    assert len(text) + len(images) == len(merged) and len(text) == 7 * 13 + 2
    settings = json.loads((run_folder / "export/merged/processor_config.json").read_text())
    assert settings == {"processor_class": "Gemma3Processor"}  # without its chat template
  assert not (exports["full"] / "export/peft").exists()


# llama.cpp.
def read_gguf(gguf_py, path, folder):
  """Compares a GGUF file with the Hugging Face folder it was made of, tensor by tensor; writes
  facts to {folder}/facts.json. Runs where torch is: see `run_torch`.
  """
  import json
  import pathlib
  import sys

  sys.path.insert(0, gguf_py)
  import gguf
  import numpy as np
  import safetensors.torch

  reader = gguf.GGUFReader(path)
  blocks = reader.fields["gemma3.block_count"].contents()
  names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, blocks)
  found = {tensor.name: tensor for tensor in reader.tensors}
  stored = safetensors.torch.load_file(f"{folder}/model.safetensors")
  for name, value in stored.items():
    tensor = found.pop(names.get_name(name, try_suffixes=(".weight",)))
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(value.shape)
    # llama.cpp multiplies by the norm's scale itself, Gemma's files hold it less 1.
    offset = 1.0 if "norm" in name else 0.0
    assert np.array_equal(values, value.float().numpy() + offset), name
  assert not found, found
  facts = ("general.name", "tokenizer.chat_template", "tokenizer.ggml.tokens")
  facts += ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token")
  said = {name: reader.fields[name].contents() for name in facts}
  pathlib.Path(folder, "facts.json").write_text(json.dumps(said))


def test_gguf_holds_merged_bit_for_bit(lora_run, tmp_path):  # noqa: F811
  llama_cpp = os.environ.get("LLAMA_CPP") or pytest.skip("no llama.cpp; set LLAMA_CPP to it")
  python = conftest.parity_python() or pytest.skip("no Python with requirements-parity.txt")
  out = tmp_path / "out"
  flags = [f"--checkpoint={lora_run}", f"--out_dir={out}", f"--verify_python={python}"]
  flags += ["--formats=merged,gguf", f"--llama_cpp={llama_cpp}", "--title=Small one"]
  assert run(*flags) == 0
  model = out / "gguf/model-bf16.gguf"
  test_loading.run_torch(read_gguf, f"{llama_cpp}/gguf-py", str(model), str(out / "merged"))
  facts = json.loads((out / "merged/facts.json").read_text())
  pieces = loading.load_policy("tiny", str(lora_run)).tokenizer
  tokens = facts["tokenizer.ggml.tokens"][: pieces.GetPieceSize()]
  assert tokens == [pieces.IdToPiece(i) for i in range(pieces.GetPieceSize())]
  assert facts["general.name"] == "Small one"
  assert facts["tokenizer.ggml.bos_token_id"] == 2 and facts["tokenizer.ggml.add_bos_token"]
  template = (out / "merged/chat_template.jinja").read_text()
  assert facts["tokenizer.chat_template"] == template
  assert (out / "gguf/Modelfile").read_text().startswith("FROM ./model-bf16.gguf\n")


# Hugging Face's Hub.
class Hub(http.server.BaseHTTPRequestHandler):
  """As much of the Hub's API as one upload asks for; what it was sent is in `server.commits`."""

  protocol_version = "HTTP/1.1"

  def respond(self):
    body = self.read_body()
    host = f"http://{self.headers['Host']}"
    answer = {}
    if "whoami" in self.path:
      answer = {"name": "me", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
    elif "repos/create" in self.path:
      self.server.created.append(json.loads(body))
      answer = {"url": f"{host}/me/small", "name": "me/small"}
    elif "preupload" in self.path:
      files = [file["path"] for file in json.loads(body)["files"]]
      regular = {"uploadMode": "regular", "shouldIgnore": False}
      answer = {"files": [{"path": name} | regular for name in files]}
    elif "/commit/" in self.path:
      self.server.commits.append([json.loads(line) for line in body.splitlines()])
      answer = {"commitUrl": f"{host}/me/small/commit/0123", "commitOid": "0123"}
      answer["pullRequestUrl"] = None
    else:
      answer = {"id": "me/small", "sha": "0" * 40, "siblings": []}
    self.send(200, answer)

  do_GET = do_POST = do_HEAD = respond

  def read_body(self) -> bytes:
    if self.headers.get("Transfer-Encoding") != "chunked":
      return self.rfile.read(int(self.headers.get("Content-Length") or 0))
    body = b""
    while size := int(self.rfile.readline().split(b";")[0], 16):
      body += self.rfile.read(size)
      self.rfile.readline()
    self.rfile.readline()
    return body

  def send(self, status: int, answer: dict):
    content = json.dumps(answer).encode()
    self.send_response(status)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    self.wfile.write(content)

  def log_message(self, *_):
    pass


@pytest.fixture(scope="module")
def hub():
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
  server.created = []
  server.commits = []
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield server
  server.shutdown()
  server.server_close()


PUSH = """
import sys
from lib import publishing
from lib.errors import InputError
target, folder, *files = sys.argv[1:]
try:
  target = publishing.read_target(target)
  publishing.check_account(target)
  publishing.push(target, folder, files)
except InputError as error:
  print("REFUSED", error)
"""


def push(hub, home, *arguments: str) -> str:
  """What a process of its own prints: huggingface_hub reads its environment once."""
  here = "127.0.0.1"
  where = {"HF_ENDPOINT": f"http://{here}:{hub.server_port}", "NO_PROXY": here, "no_proxy": here}
  where |= {"HF_TOKEN": "hf_test", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
  done = subprocess.run(
    [sys.executable, "-c", PUSH, *arguments],
    cwd=conftest.REPO,
    env=os.environ | where,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout.strip().splitlines()[-1]


def test_an_export_goes_to_the_hub_with_the_model_at_the_top(hub, lora_run, tmp_path):  # noqa: F811
  out = tmp_path / "out"
  assert run(f"--checkpoint={lora_run}", f"--out_dir={out}") == 0
  files = json.loads((out / "config.json").read_text())["files"]
  (out / "notes.txt").write_text("somebody's own")
  said = push(hub, tmp_path / "home", "me/small", str(out), *files)
  assert said.endswith(f"pushed to http://127.0.0.1:{hub.server_port}/me/small")
  asked = [(made["name"], made["visibility"]) for made in hub.created]
  assert asked == [("small", "private")]
  sent = {}
  for line in hub.commits[-1]:
    if line["key"] == "file":
      sent[line["value"]["path"]] = line["value"]["content"]
  assert {"README.md", "config.json", "model.safetensors", "chat_template.jinja"} <= sent.keys()
  assert {"peft/adapter_model.safetensors", "base/model.safetensors"} <= sent.keys()
  assert "notes.txt" not in sent and not any(name.startswith("merged/") for name in sent)
  assert len(sent) == len(files) - 1  # the export's own config.json stays here


def test_an_account_that_may_not_write_is_one_line(hub, tmp_path):
  said = push(hub, tmp_path / "home", "you/small", str(tmp_path))
  assert said.startswith("REFUSED") and "HF_TOKEN is of me, expected one of: me" in said
  with pytest.raises(InputError, match="expected USER/NAME"):
    publishing.read_target("small")


# A run that learned nothing.
@pytest.mark.parametrize(
  "forced, changed, effect, failures",
  [
    (False, True, 1.0, []),
    (False, True, 0.01, ["rounding to bfloat16 lost what training changed"]),
    (True, True, 0.01, ["rounding to bfloat16 lost what training changed"]),
    (False, False, 0.0, ["training changed nothing"]),
    (True, False, 0.0, []),  # a rehearsal: --force began it
  ],
)
def test_a_rehearsal_may_change_nothing(forced, changed, effect, failures):
  base = np.zeros((2, 3), np.float32)
  logits = {"base": [base], "policy": [base + effect], "merged": [base + effect + 0.02]}
  ours = parity.Ours([[2, 3]], [0], logits, {"merged": [[1]]}, changed)
  facts = {"greedy": [[1]], "chat_ids": [[2]], "stop_ids": list(tokenization.STOP_IDS)}
  theirs = parity.Theirs({"merged": logits["merged"]}, {"merged": facts}, {})
  prompts = parity.Prompts(["?"], [[2]], "here")
  found = parity.compare(["merged"], ours, theirs, prompts, forced)
  assert found["failures"] == [f"merged: {text}" for text in failures]
  assert found["passed"] == (not failures) and found["changed"] == changed


# A folder that is not quite a folder.
def test_an_out_dir_that_is_a_link_stays_one(lora_run, tmp_path):  # noqa: F811
  real = tmp_path / "disk/real"
  real.mkdir(parents=True)
  link = tmp_path / "link"
  link.symlink_to(real)
  flags = [f"--checkpoint={lora_run}", f"--out_dir={link}", "--formats=peft"]
  for more in ([], ["--overwrite"]):
    assert run(*flags, *more) == 0
    assert link.is_symlink() and (real / "peft/adapter_model.safetensors").is_file()
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]
    assert sorted(os.listdir(real)) == ["README.md", "base", "config.json", "peft"]


def test_an_out_dir_that_is_a_disk_of_its_own(lora_run, tmp_path):  # noqa: F811
  """A mount point can be neither renamed nor removed."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk)]
  if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("mounting is not permitted here")
  try:
    (disk / "lost+found").mkdir()
    flags = [f"--checkpoint={lora_run}", f"--out_dir={disk}", "--formats=peft"]
    for more in ([], ["--overwrite"]):
      assert run(*flags, *more) == 0
      expected = ["README.md", "base", "config.json", "lost+found", "peft"]
      assert sorted(os.listdir(disk)) == expected
    assert disk.is_mount()
  finally:
    subprocess.run(["umount", str(disk)], check=True)
