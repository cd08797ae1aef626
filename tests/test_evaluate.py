"""evaluate.py: verdicts on rows, real tiny runs, killed and continued ones, a real judge server."""

import collections
import http.server
import itertools
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from absl import flags
from conftest import one_line_error, run, run_well, small_charts
from evaluations import REPO, SYSTEMS, make_row, make_rows, respond, well, write_data

import evaluate
import rewards
from lib import (
  answering,
  checkpoints,
  contract,
  devices,
  folders,
  jsonl,
  loading,
  parameters,
  sampling,
  verdicts,
)
from lib.errors import InputError


def run_main(*argv):
  for name in evaluate.FLAGS:
    evaluate.FLAGS[name].unparse()
  evaluate.FLAGS(["evaluate.py", *argv])
  with small_charts():
    evaluate.main()


# ---- verdicts
@pytest.mark.parametrize(
  "text, strict, lenient, correct, correct_lenient",
  [
    (lambda a: well(a), True, True, True, True),
    (lambda a: well("1000"), True, True, False, False),
    (lambda a: "Sure! " + well(a) + " Hope that helps.", False, True, False, True),
    (
      lambda a: f"<reasoning>We add.</reasoning>\n<answer>{a}",
      False,
      False,
      False,
      True,
    ),  # cut before the last tag
    (lambda a: f"We add the two, so the answer is {a}.", False, False, False, True),
    (lambda a: f"30 and 12 make {a} in my opinion", False, False, False, True),  # unpaid
    (lambda a: "", False, False, False, False),
  ],
)
def test_verdicts_of_a_math_row(text, strict, lenient, correct, correct_lenient):
  [r] = respond([make_row(1, "math", "What is 30 + 12?", "42")], lambda row: text(row["answer"]))
  assert (r["format"], r["lenient_format"], r["correct"], r["correct_lenient"]) == (
    strict,
    lenient,
    correct,
    correct_lenient,
  )
  assert r["partial"] >= r["correct"] and set(r["rewards"]) == set(rewards.SYSTEMS)


def test_a_looping_answer_is_read_in_no_time():
  start = time.monotonic()
  assert not verdicts.LENIENT.search("<reasoning>x</reasoning><answer>x" * 2000)
  assert time.monotonic() - start < 2 and verdicts.LENIENT.search(
    "a <reasoning>b</reasoning> c <answer>d</answer> e"
  )


def test_verdicts_by_domain():
  rows = make_rows(1)
  got = {
    r["domain"]: r
    for r in respond(rows, lambda r: well(r["answer"] or "Two cats slept in the warm sun."))
  }
  assert all(got[d]["correct"] is True for d in ("math", "logic", "science", "coding"))
  assert (
    got["creative_writing"]["correct"] is None
    and got["creative_writing"]["rewards"]["multi_domain"]
  )
  [half] = respond(
    [r for r in rows if r["domain"] == "coding"], lambda r: well("def add0(x):\n  return abs(x)")
  )
  assert half["correct"] is False and 0 < half["partial"] < 1  # one of two tests


def test_a_row_without_an_answer_is_evaluated_for_format_only():
  [r] = respond([make_row(0, "math", "What is 1 + 1?", "")], lambda row: well("2"))
  assert r["format"] and r["correct"] is None and r["rewards"] is None


def test_dual_stream_data_is_read_in_its_style():
  row = make_row(0, "math", "What is 1 + 1?", "2")
  text = contract.format_response(
    "\nPlan: add\nReasoning: one and one\nEvidence: 1 + 1 = 2\nSanity_check: small\n", "2"
  )
  base = {**row, "sample": 0, "response": text, "tokens": 9, "truncated": False}
  assert verdicts.score([dict(base)], "dual_stream", SYSTEMS)[0]["correct"] is True
  assert (
    verdicts.score([{**base, "response": well("2")}], "dual_stream", SYSTEMS)[0]["format"] is False
  )


# ---- rows and prompts
@pytest.mark.parametrize(
  "variant, holds, lacks",
  [
    ("extra_space", "Task:  How", "Task: How"),
    ("no_newline", "<start_of_turn>model", "model\n"),
    ("one_newline", "\nTask", "\n\nTask"),
    ("indented", "\n    <answer>", "\n<answer>"),
    ("no_system", "user\nHow many?", "Format:"),
  ],
)
def test_prompt_variants_spoil_the_template_only(variant, holds, lacks):
  trained = contract.format_prompt("How many?")
  spoiled = evaluate.VARIANTS[variant](trained)
  assert holds in spoiled and lacks not in spoiled and "How many?" in spoiled
  assert lacks in trained and spoiled.startswith(contract.TURN_START + "user\n")


def test_every_variant_changes_both_styles():
  for style, (name, spoil) in itertools.product(contract.STYLES, evaluate.VARIANTS.items()):
    assert spoil(contract.format_prompt("Q", style)) != contract.format_prompt("Q", style), name


def test_bad_rows_are_named(tmp_path):
  rows = make_rows(1)

  def load(test, variant="", **kw):
    return evaluate.load_rows(
      write_data(tmp_path / "d", rows, test, **kw), "test", 0, variant, False
    )

  assert len(load(rows)[0]) == 5
  for test, message in (
    ([], "is empty"),
    ([{**rows[0], "prompt": None}], "test.jsonl:1 has no text for prompt"),
    ([[1]], "test.jsonl:1 has no id, domain"),
    ([rows[0], rows[0]], "test.jsonl:2 repeats the id"),
    ([{**rows[0], "answer": "\ud83d"}], "test.jsonl:1 holds half of a surrogate pair"),
  ):
    with pytest.raises(InputError, match=message):
      load(test)
  with pytest.raises(InputError, match="changes nothing"):
    load([{**rows[0], "prompt": "Task"}], "extra_space")
  (tmp_path / "d" / "test.jsonl").write_text('{"id": ')
  with pytest.raises(InputError, match="test.jsonl:1 is not a JSON row"):
    evaluate.load_rows(tmp_path / "d", "test", 0, "", False)
  (tmp_path / "d" / "config.json").unlink()
  with pytest.raises(InputError, match="incomplete"):
    evaluate.load_rows(tmp_path / "d", "test", 0, "", False)


def test_overlap_is_what_the_preparation_noted(tmp_path):
  folder = write_data(tmp_path, make_rows(1), make_rows(2))
  assert evaluate.overlap_of(folder) is None
  noted = {"rule": "8 words in a row", "dropped": 3, "examples": []}
  domains = {"math": {"train": 40, "val": 2}, "logic": {"train": 2}}
  stats = {"domains": domains, "decontamination": noted}
  (folder / "stats.json").write_text(json.dumps(stats))
  expected = {"train_rows": 42, "rule": "8 words in a row", "dropped": 3}
  assert evaluate.overlap_of(folder) == expected


# ---- sampling
def test_noise_depends_on_seed_row_and_sample_only():
  keys = answering.noise_keys(0, ["a", "b", "c"], 4)
  assert keys.shape == (3, 4, 2) and len({tuple(k) for k in keys.reshape(-1, 2)}) == 12
  assert np.array_equal(answering.noise_keys(0, ["c", "a"], 2), keys[[2, 0], :2])
  assert not np.array_equal(answering.noise_keys(1, ["a"], 4), keys[:1])


def test_batch_size_follows_memory():
  config = collections.namedtuple(
    "C", "num_layers num_kv_heads head_dim num_heads embed_dim hidden_dim num_embed param_dtype"
  )(18, 1, 256, 4, 640, 2048, 262144, np.float32)  # Gemma 3 270M
  sizes = [
    answering.fitting_batch(config, 256, 512, gib << 30, 512) for gib in (0, 1, 2, 4, 8, 16, 64)
  ]
  assert (
    sizes == sorted(sizes)
    and sizes[0] == 1
    and sizes[-1] > 8 * sizes[1]
    and all(math.log2(s).is_integer() for s in sizes)
  )
  assert answering.fitting_batch(config, 1024, 512, 8 << 30, 512) < answering.fitting_batch(
    config, 128, 128, 8 << 30, 512
  )
  assert answering.free_bytes() > 0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  rows = make_rows(12)
  return write_data(tmp_path_factory.mktemp("eval") / "data", rows[:40], rows[40:])


@pytest.fixture(scope="module")
def policy(data):
  devices.enable_compilation_cache()
  return loading.load_policy("tiny", data_dir=str(data))


def complete(policy, rows, **options):
  options = {
    "samples": 2,
    "temperature": 1.0,
    "max_new_tokens": 6,
    "batch_size": 16,
    "seed": 0,
  } | options
  out = {}
  for part, completions in answering.generate(policy, rows, **options):
    for row, ids in zip(part, completions, strict=True):
      assert row["id"] not in out
      out[row["id"]] = ids
  return out


def test_sampling_does_not_depend_on_batches(policy):
  rows = make_rows(4)
  whole, pairs = complete(policy, rows), complete(policy, rows[::-1], batch_size=4)
  assert set(whole) == set(pairs) == {r["id"] for r in rows}
  assert all(np.array_equal(whole[i], pairs[i]) for i in whole)
  assert any(not np.array_equal(*ids) for ids in whole.values())  # two samples of a row differ
  other = complete(policy, rows, seed=1)
  assert any(not np.array_equal(whole[i], other[i]) for i in whole)


def test_out_of_memory_halves_the_batch(policy, monkeypatch, capsys):
  import jax

  sizes, real = [], sampling.sample

  def tight(policy, prompts, **options):
    sizes.append(len(prompts))
    if len(prompts) > 4:
      raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    return real(policy, prompts, **options)

  monkeypatch.setattr(sampling, "sample", tight)
  rows = make_rows(2)
  assert set(complete(policy, rows, samples=1, batch_size=16)) == {r["id"] for r in rows}
  assert (
    sizes[:3] == [16, 8, 4] and set(sizes[3:]) == {4} and "out of memory" in capsys.readouterr().out
  )


# ---- whole runs
@pytest.fixture(scope="module")
def finished(data):
  """A complete evaluation of the tiny base model, two samples a row."""
  out = data.parent / "eval_base"
  run_main(
    f"--data_dir={data}",
    f"--out_dir={out}",
    "--max_new_tokens=6",
    "--samples=2",
    "--temperature=1",
    "--batch_size=16",
  )
  return out


def test_a_run_leaves_everything(finished, data):
  results = json.loads((finished / "results.json").read_text())
  rows = jsonl.read_rows(data / "test.jsonl")
  responses = jsonl.read_rows(finished / "responses.jsonl")
  assert [(r["id"], r["sample"]) for r in responses] == [
    (row["id"], s) for row in rows for s in (0, 1)
  ]
  assert (
    results["overall"]["n"] == len(rows)
    and results["domains"]["creative_writing"]["accuracy"] is None
  )
  for d in (*results["domains"].values(), results["overall"]):
    assert {
      "n",
      "format_rate",
      "format_ci",
      "accuracy",
      "accuracy_ci",
      "mean_reward",
      "mean_reward_ci",
      "truncated_rate",
      "lenient_format_rate",
      "accuracy_well_formed",
      "partial_credit",
      "mean_tokens",
      "composite",
    } <= d.keys()
  assert {"pass@1", "pass@2", "maj@2"} <= results["domains"]["math"].keys()
  assert set(results["rewards"]) == set(rewards.SYSTEMS)
  assert all(1 <= r["tokens"] <= 6 and (r["truncated"] or r["tokens"]) for r in responses)
  assert folders.read_config(finished, "evaluate.py")["stage"] == "evaluate"
  for name in ("domain_compliance_chart.png", "report.md", "report.html"):
    assert (finished / name).stat().st_size > 500
  assert (finished / "domain_compliance_chart.png").read_bytes().startswith(b"\x89PNG")


def test_resume_gives_the_run_you_would_have_had(finished, data, capsys):
  out = data.parent / "eval_resumed"
  shutil.copytree(finished, out)
  lines = (out / "responses.jsonl").read_bytes().splitlines(keepends=True)
  (out / "responses.jsonl").write_bytes(
    b"".join(lines[:7]) + lines[7][:40]
  )  # 3 rows whole, one half done, one line torn
  (out / "config.json").unlink()
  run_main(
    f"--data_dir={data}",
    f"--out_dir={out}",
    "--max_new_tokens=6",
    "--samples=2",
    "--temperature=1",
    "--batch_size=16",
  )
  assert (out / "responses.jsonl").read_bytes() == (finished / "responses.jsonl").read_bytes()
  assert "3 of 20 rows are already" in capsys.readouterr().out
  same, first = (json.loads((folder / "results.json").read_text()) for folder in (out, finished))
  for name in ("seconds", "tokens_per_second", "git_commit"):
    del same[name], first[name]
  assert same == first


def test_other_flags_are_refused_without_harm(finished, data):
  held = {p.name: p.read_bytes() for p in finished.iterdir()}
  argv = [
    f"--data_dir={data}",
    f"--out_dir={finished}",
    "--max_new_tokens=5",
    "--samples=2",
    "--temperature=1",
  ]
  with pytest.raises(InputError, match=r"--max_new_tokens was 6, is 5.*another --out_dir"):
    run_main(*argv)
  assert {p.name: p.read_bytes() for p in finished.iterdir()} == held
  out = data.parent / "eval_again"
  shutil.copytree(finished, out)
  run_main(*argv[:1], f"--out_dir={out}", "--max_new_tokens=5", "--limit=5", "--overwrite")
  assert len(jsonl.read_rows(out / "responses.jsonl")) == 5


def test_killed_and_continued(finished, data, capsys):
  out = data.parent / "eval_killed"
  argv = [
    f"--data_dir={data}",
    f"--out_dir={out}",
    "--max_new_tokens=6",
    "--samples=2",
    "--temperature=1",
    "--batch_size=2",
  ]
  process = subprocess.Popen(
    [sys.executable, str(REPO / "evaluate.py"), *argv], stdout=subprocess.DEVNULL
  )
  deadline = time.monotonic() + 120
  while time.monotonic() < deadline and process.poll() is None:
    if (out / "responses.jsonl").is_file() and (out / "responses.jsonl").stat().st_size:
      process.send_signal(signal.SIGKILL)
      break
    time.sleep(0.01)
  assert (
    process.wait() == -signal.SIGKILL and not (out / "config.json").exists()
  )  # it was killed before the end
  run_main(*argv)
  assert "of 20 rows are already in" in capsys.readouterr().out
  assert (out / "responses.jsonl").read_bytes() == (finished / "responses.jsonl").read_bytes()


def save_checkpoint(folder, policy, style="tags", **facts):
  """An SFT-like folder: LoRA on the tiny model with adapters that change its answers."""
  import jax

  tuned = parameters.apply_lora(policy.model, policy.mesh, 4, 8.0)
  from flax import nnx

  state = nnx.state(tuned, nnx.LoRAParam)
  nnx.update(
    tuned,
    jax.tree.map(
      lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), state
    ),
  )
  folder.mkdir()
  checkpoints.save_params(str(folder / "params"), tuned)
  facts = {
    "model": "tiny",
    "model_fingerprint": policy.fingerprint,
    "lora_rank": 4,
    "lora_alpha": 8.0,
  } | facts
  folders.write_config(folder, "train_sft", flags.FlagValues(), style, **facts)
  return folder


def test_checkpoints(policy, data, finished, tmp_path):
  tuned, out = save_checkpoint(tmp_path / "sft", policy), tmp_path / "eval_sft"
  (tuned / "metrics.jsonl").write_text(
    "".join(json.dumps({"step": i, "loss": 3 / (i + 1), "note": "x"}) + "\n" for i in range(9))
  )
  argv = [
    f"--data_dir={data}",
    "--max_new_tokens=6",
    "--samples=2",
    "--temperature=1",
    "--batch_size=16",
  ]
  run_main(*argv, f"--checkpoint={tuned}", f"--out_dir={out}", f"--compare={finished}/results.json")
  results = json.loads((out / "results.json").read_text())
  assert (
    results["compare"]["n"] == 20
    and results["weights"] != json.loads((finished / "results.json").read_text())["weights"]
  )
  assert (out / "responses.jsonl").read_bytes() != (finished / "responses.jsonl").read_bytes()
  assert (out / "before_after.png").is_file() and (out / "training_curves.png").is_file()
  with pytest.raises(
    InputError, match="holds a run with other flags .--weights was"
  ):  # the same folder, other weights
    run_main(*argv, f"--out_dir={out}")
  with pytest.raises(InputError, match="was trained on"):
    other = save_checkpoint(tmp_path / "other", policy, model_fingerprint="0")
    run_main(*argv, f"--checkpoint={other}", f"--out_dir={tmp_path / 'x'}")
  dual = save_checkpoint(tmp_path / "dual", policy, style="dual_stream")
  with pytest.raises(InputError, match="was trained with prompt .*--allow_prompt_mismatch"):
    run_main(*argv, f"--checkpoint={dual}", f"--out_dir={tmp_path / 'x'}")
  run_main(
    *argv,
    f"--checkpoint={dual}",
    f"--out_dir={tmp_path / 'x'}",
    "--allow_prompt_mismatch",
    "--limit=3",
  )
  assert "another prompt text" in (tmp_path / "x" / "report.md").read_text()
  (tuned / "run.json").write_text(
    json.dumps({"inputs": {"data_dir": folders.digest(str(data / "train.jsonl"))}})
  )
  assert not evaluate.trained_elsewhere(str(tuned), data)
  (tuned / "run.json").write_text(json.dumps({"inputs": {"data_dir": "0" * 64}}))
  assert evaluate.trained_elsewhere(str(tuned), data) and evaluate.trained_elsewhere(
    f"{tuned}/best", data
  )


def test_a_field_that_no_row_has_is_refused():
  rows = [{"metadata": {"source": "own", "level": 3}}, {"metadata": None}]
  evaluate.check_field(rows, "level")
  with pytest.raises(InputError, match="--by=kind: no row has it .* one of level, source"):
    evaluate.check_field(rows, "kind")


def test_prompt_variant_is_charted_beside_the_trained_prompt(finished, data):
  out = data.parent / "eval_base_indented"
  run_main(
    f"--data_dir={data}",
    f"--out_dir={out}",
    "--max_new_tokens=6",
    "--samples=2",
    "--temperature=1",
    "--batch_size=16",
    "--prompt_variant=indented",
    f"--compare={finished}",
  )
  results = json.loads((out / "results.json").read_text())
  assert results["prompt_variant"] == "indented" and results["compare"]["n"] == 20
  assert (
    "evaluation compared with had prompt_variant '' (here 'indented')"
    in (out / "report.md").read_text()
  )
  assert (out / "prompt_mismatch.png").is_file() and "spoiled on purpose (indented)" in (
    out / "report.html"
  ).read_text()


def test_rows_without_answers_are_said(data, tmp_path, capsys):
  rows = make_rows(2)
  for r in rows:
    if r["domain"] in ("math", "logic"):
      r["answer"] = ""
  folder = write_data(tmp_path / "d", jsonl.read_rows(data / "train.jsonl"), rows)
  run_main(f"--data_dir={folder}", f"--out_dir={tmp_path / 'o'}", "--max_new_tokens=4")
  results = json.loads((tmp_path / "o" / "results.json").read_text())
  assert (
    results["domains"]["math"]["accuracy"] is None
    and results["domains"]["math"]["mean_reward"] is None
  )
  assert results["domains"]["math"]["format_rate"] == 0.0 and results["unscored_rows"] == 4
  said = "4 rows of verifiable domains could not be checked"
  assert said in capsys.readouterr().out


def test_table_of_a_run(finished, data):
  said = run_well(evaluate, table=data.parent)
  assert "base" in said and "format rate" in said and str(finished / "report.html") in said
  assert re.search(r"\d\.\d% \[\d+\.\d, \d+\.\d\]", said)


@pytest.mark.parametrize(
  "flag, message",
  [
    (dict(table="/nowhere"), "holds no eval_"),
    (dict(data_dir="/nowhere"), "/nowhere does not exist"),
    (dict(samples=4), "add --temperature"),
    (dict(ask="What is 2 + 2?", table="a,b"), "are two commands; give one"),
    (dict(split="huge"), "huge.jsonl does not exist"),
    (dict(compare="/nowhere/results.json"), "results.json does not exist"),
  ],
)
def test_bad_input_is_one_line(flag, message, data):
  result = run(evaluate, **dict(data_dir=data) | flag)
  one_line_error(result, message)
  assert result.out == "" and result.err.count("\n") == 1


# ---- the judge
class Judge(http.server.BaseHTTPRequestHandler):
  """An OpenAI-compatible endpoint on the loopback address. Behaviour by the model name that is
  asked for.
  """

  seen = []

  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    self.seen.append(body)
    mood, asked = (
      body["model"],
      sum(b["messages"] == body["messages"] and b["model"] == body["model"] for b in self.seen),
    )
    if mood == "flaky" and asked < 3:
      self.send_response((429, 500)[asked - 1])
      self.end_headers()
      return
    text = '{"reasoning": 4, "answer": 3, "overall": 7.5}'
    if mood == "chatty" and len(self.seen) % 2:
      text = "I like it very much, 9/10"
    reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    self.send_response(200)
    self.send_header("Content-Length", str(len(reply)))
    self.end_headers()
    self.wfile.write(reply)

  def log_message(self, *args):
    pass


@pytest.fixture()
def judge_url():
  Judge.seen = []
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f"http://127.0.0.1:{server.server_port}/v1"
  server.shutdown()
  server.server_close()


def judged_run(finished, out, *argv):
  if not out.exists():
    shutil.copytree(finished, out)
  run_main(
    f"--data_dir={finished.parent / 'data'}",
    f"--out_dir={out}",
    "--max_new_tokens=6",
    "--samples=2",
    "--temperature=1",
    "--batch_size=16",
    *argv,
  )
  return json.loads((out / "results.json").read_text())


def test_judge_retries_and_scores_creative_domains_only(finished, tmp_path, judge_url):
  results = judged_run(
    finished, tmp_path / "eval_j", f"--judge_url={judge_url}", "--judge_model=flaky"
  )
  creative = results["domains"]["creative_writing"]
  assert creative["judge"] == {
    "n": creative["n"] * 2,
    "reasoning": 4.0,
    "answer": 3.0,
    "overall": 7.5,
  }
  assert (
    results["judge"]["retried"] >= 2
    and results["judge"]["failed"] == 0
    and "judge" not in results["domains"]["math"]
  )
  report = (tmp_path / "eval_j" / "report.md").read_text()
  assert "judge: overall /10" in report and re.search(
    r"\| creative writing +\|.* 7\.50 \|\n", report
  )
  before = len(Judge.seen)
  judged_run(finished, tmp_path / "eval_j", f"--judge_url={judge_url}", "--judge_model=flaky")
  assert len(Judge.seen) == before  # judged responses are not asked for again


def test_a_secret_in_the_judges_address_is_kept_nowhere(finished, tmp_path, judge_url):
  out = tmp_path / "eval_j"
  judged_run(finished, out, f"--judge_url={judge_url}?key=s3cret", "--judge_model=chatty")
  with pytest.raises(InputError, match="gave no reply") as error:
    judged_run(finished, out, "--judge_url=http://127.0.0.1:9/s3cret/v1", "--judge_model=other")
  assert "s3cret" not in str(error.value)
  for path in out.iterdir():
    assert b"s3cret" not in path.read_bytes(), path.name


def test_judge_counts_malformed_replies(finished, tmp_path, judge_url):
  results = judged_run(
    finished, tmp_path / "eval_j", f"--judge_url={judge_url}", "--judge_model=chatty"
  )
  assert (
    results["judge"]["malformed"] > 0
    and results["judge"]["n"] > 0
    and results["judge"]["failed"] == 0
  )
  assert (
    f"{results['judge']['malformed']} malformed" in (tmp_path / "eval_j" / "report.md").read_text()
  )


def test_unreachable_judge_keeps_the_evaluation(finished, tmp_path, monkeypatch, judge_url):
  with pytest.raises(InputError, match="gave no reply to 8 of 8 responses.*same command again"):
    judged_run(finished, tmp_path / "eval_j", "--judge_url=http://127.0.0.1:9/v1")
  assert (
    folders.read_config(tmp_path / "eval_j", "evaluate.py")
    and (tmp_path / "eval_j" / "report.html").is_file()
  )
  results = judged_run(
    finished, tmp_path / "eval_j", f"--judge_url={judge_url}"
  )  # the same folder, once the judge is back
  assert results["judge"]["n"] == 8
