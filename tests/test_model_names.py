"""--model: a folder, a name on Hugging Face (a server on the loopback address stands for it), on
Kaggle, or attached to a notebook.
"""

import http.server
import json
import os
import subprocess
import sys
import threading

import conftest
import pytest

from lib import model_names
from lib.errors import InputError

FILES = {
  "config.json": b'{"model_type": "gemma3_text"}',
  "tokenizer.model": b"pieces",
  "model.safetensors": b"weights",
  "preprocessor_config.json": b"{}",
  "pytorch_model.bin": b"the same weights again",
  "gemma.gguf": b"and again",
}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
  """As much of Hugging Face's API as a snapshot needs: google/… wants a token, closed/… a licence,
  nobody/… is not there.
  """

  protocol_version = "HTTP/1.1"

  def do_HEAD(self):
    self.respond()

  def do_GET(self):
    self.respond()

  def respond(self):
    self.server.asked.append(self.path)
    owner = self.path.removeprefix("/api/models").split("/")[1]
    signed_in = self.headers.get("Authorization") == "Bearer hf_test"
    if owner == "nobody" or (owner == "google" and not signed_in):
      return self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
    if owner == "closed":
      return self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
    if self.path.startswith("/api/models/"):
      siblings = [{"rfilename": name} for name in FILES]
      listing = [{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in FILES.items()]
      info = {"id": "x/y", "sha": COMMIT, "siblings": siblings}
      return self.send(200, json.dumps(listing if "/tree/" in self.path else info).encode(), {})
    name = self.path.rsplit("/", 1)[-1]
    self.send(200, FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})

  def send(self, status: int, body: bytes, headers: dict):
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key, value)
    self.send_header("Content-Length", str(len(body)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(body)

  def log_message(self, *_):
    pass


@pytest.fixture
def hub():
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
  server.asked = []
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield server
  server.shutdown()
  server.server_close()


CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from lib import model_names
from lib.errors import InputError
try:
  print("FOLDER", model_names.resolve_model(sys.argv[2]))
except InputError as error:
  print("REFUSED", error)
"""


def resolve(model: str, home, **env) -> str:
  """What a process of its own prints: huggingface_hub reads its environment once."""
  nothing = dict.fromkeys(("HF_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "NO_PROXY", "no_proxy"), "")
  found = (
    os.environ | nothing | {"HOME": str(home), "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
  )
  found["KAGGLEHUB_CACHE"] = str(home)
  done = subprocess.run(
    [sys.executable, "-c", CODE, str(conftest.REPO), model],
    capture_output=True,
    text=True,
    env=found | env,
    timeout=300,
  )
  lines = done.stdout.strip().splitlines()
  assert len(lines) == 1, done.stdout + done.stderr[-2000:]
  return lines[0]


def address(hub) -> dict:
  here = "127.0.0.1"
  return {"HF_ENDPOINT": f"http://{here}:{hub.server_port}", "NO_PROXY": here, "no_proxy": here}


@pytest.mark.parametrize("model", ["google/gemma-3-1b-it", "gemma-3-1b-it"])
def test_a_model_of_hugging_face_is_fetched_with_a_token(hub, tmp_path, model):
  line = resolve(model, tmp_path, HF_TOKEN="hf_test", **address(hub))
  kind, folder = line.split(" ", 1)
  assert kind == "FOLDER", line
  expected = ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.model"]
  assert sorted(os.listdir(folder)) == expected
  assert model_names.hub_name(folder) == "google/gemma-3-1b-it"
  assert not any("pytorch_model" in path or "gguf" in path for path in hub.asked)


def test_a_fine_tune_needs_no_token(hub, tmp_path):
  assert resolve("hf:somebody/their-gemma", tmp_path, **address(hub)).startswith("FOLDER")


@pytest.mark.parametrize(
  "model,token,words",
  [
    ("google/gemma-3-1b-it", "", "nor a model that Hugging Face shows without HF_TOKEN"),
    ("closed/gemma-3-1b-it", "hf_test", "only to those who accepted its licence"),
    ("nobody/typo", "hf_test", "neither a folder here nor a model that Hugging Face shows you"),
  ],
)
def test_a_model_that_is_not_given_names_both_ways_to_it(hub, tmp_path, model, token, words):
  line = resolve(model, tmp_path, HF_TOKEN=token, **address(hub))
  assert line.startswith("REFUSED") and words in line and model in line
  for way in ("huggingface.co", "HF_TOKEN", "kaggle.com", "KAGGLE_KEY", "attach", "MODEL=tiny"):
    assert way in line


@pytest.mark.parametrize(
  "model,words",
  [
    ("gemma-3-4b-pt", "could not fetch google/gemma-3/transformers/gemma-3-4b-pt from Kaggle"),
    ("kaggle:me/mine/jax/one/3", "could not fetch me/mine/jax/one/3 from Kaggle"),
    ("google/gemma-3/transformers/gemma-3-1b-it", "could not fetch google/gemma-3/transformers"),
    ("google/gemma-3-1b-it", "google/gemma-3-1b-it is no folder here, and could not be fetched"),
  ],
)
def test_without_network_and_account_the_reason_and_the_ways_are_one_line(tmp_path, model, words):
  proxy = dict.fromkeys(
    ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9"
  )
  line = resolve(model, tmp_path, **proxy)
  assert line.startswith("REFUSED") and words in line
  assert "HF_TOKEN" in line and "KAGGLE_KEY" in line


@pytest.mark.parametrize(
  "model",
  [
    "gemma-9",
    "a/b/c",
    "hf:a/b/c/d",
    "kaggle:a/b",
    "../model",
    "run/export/tags/merged",
    "not a model",
  ],
)
def test_a_name_of_no_model_lists_what_is_taken(model):
  with pytest.raises(
    InputError, match="neither a folder nor one of: tiny, gemma-3-270m, "
  ) as error:
    model_names.resolve_model(model)
  assert "\n" not in str(error.value)


# ---- attached on Kaggle
def put_model(folder, config=None):
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(config or {"model_type": "gemma3_text"}))


LAYOUTS = [
  "gemma-3/transformers/gemma-3-1b-it/1",
  "models/google/gemma-3/transformers/gemma-3-1b-it/1",
  "datasets/somebody/gemma-3-1b-it",
  "gemma-3-1b-it",
  "notebooks/somebody/gemma-3-1b-it",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_attached_model_is_found_in_every_layout(tmp_path, monkeypatch, layout):
  monkeypatch.setattr(model_names, "KAGGLE_INPUT", str(tmp_path))
  put_model(tmp_path / layout)
  put_model(tmp_path / "gemma-3/transformers/gemma-3-4b-it/1", {"model_type": "gemma3"})
  for name in ("gemma-3-1b-it", "google/gemma-3-1b-it"):
    assert model_names.resolve_model(name) == str(tmp_path / layout)
  assert model_names.find_attached("gemma-3-270m-it") is None


def test_the_newest_version_is_taken_and_no_output_of_ours(tmp_path, monkeypatch):
  """Version 10 is newer than 9; a run that was saved under the model's name is no model, nor is the
  export inside it.
  """
  monkeypatch.setattr(model_names, "KAGGLE_INPUT", str(tmp_path))
  output = tmp_path / "notebooks/me/gemma-3-1b-it"
  put_model(output, {"stage": "grpo", "model": "gemma-3-1b-it"})
  put_model(output / "export/merged")
  put_model(output / "12", {"stage": "export"})
  assert model_names.find_attached("gemma-3-1b-it") is None
  for version in ("9", "10"):
    put_model(tmp_path / "gemma-3/transformers/gemma-3-1b-it" / version)
  found = model_names.resolve_model("gemma-3-1b-it")
  assert found == str(tmp_path / "gemma-3/transformers/gemma-3-1b-it/10")


@pytest.mark.parametrize(
  "model,name",
  [
    ("gemma-3-1b-it", "google/gemma-3-1b-it"),
    ("google/gemma-3-27b-pt", "google/gemma-3-27b-pt"),
    ("hf:somebody/their-gemma", "somebody/their-gemma"),
    ("/kaggle/input/gemma-3/transformers/gemma-3-1b-it/1", "google/gemma-3-1b-it"),
    ("/root/.cache/huggingface/hub/models--me--my-gemma/snapshots/0a1b", "me/my-gemma"),
    (
      "runs/gemma-3-1b-it/export/merged",
      "runs/gemma-3-1b-it/export/merged",
    ),  # trained: another base
  ],
)
def test_a_folder_goes_back_to_the_name_others_load_it_by(model, name):
  assert model_names.hub_name(model) == name
