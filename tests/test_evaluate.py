"""evaluate.py: statistics against closed forms and enumeration, real tiny runs, a real judge
server, a real browser.
"""

import collections
import html.parser
import http.server
import itertools
import json
import math
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
from absl import flags

import evaluate
import rewards
from lib import (
  answering,
  charts,
  checking,
  checkpoints,
  comparison,
  contract,
  devices,
  findings,
  folders,
  intervals,
  jsonl,
  loading,
  parameters,
  report,
  sampling,
  summary,
  verdicts,
)
from lib.errors import InputError

REPO = pathlib.Path(evaluate.__file__).parent
SYSTEMS = {s: rewards.make_rewards(s) for s in rewards.SYSTEMS}


# --------------------------------------------------------------------------------------------------
# -------------- own text
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


def run_main(*argv):
  for name in evaluate.FLAGS:
    evaluate.FLAGS[name].unparse()
  evaluate.FLAGS(["evaluate.py", *argv])
  evaluate.main()


# --------------------------------------------------------------------------------------------------
# ------------ statistics
@pytest.mark.parametrize(
  "successes, n, low, high",
  [
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
    (20, 20, 0.8389, 1.0),
  ],
)
def test_wilson_is_newcombes_table(
  successes, n, low, high
):  # Newcombe 1998, Statistics in Medicine 17, table I, method 3
  assert intervals.wilson(successes, n) == pytest.approx([low, high], abs=6e-5)


def test_wilson_is_scipys():
  stats = pytest.importorskip("scipy.stats")
  for n in (1, 7, 60, 1319):
    for k in {0, 1, n // 3, n}:
      ci = stats.binomtest(k, n).proportion_ci(method="wilson")
      assert intervals.wilson(k, n) == pytest.approx([ci.low, ci.high], abs=1e-6)


def test_wilson_edges():
  assert intervals.wilson(0, 0) is None
  assert intervals.wilson(7, 7)[1] == 1.0
  assert intervals.wilson(0, 7)[0] == 0.0


@pytest.mark.parametrize(
  "gained, lost, p",
  [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (10, 0, 2 / 1024), (5, 1, 14 / 64), (1, 5, 14 / 64)],
)
def test_mcnemar_by_hand(gained, lost, p):
  assert intervals.mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemar_is_the_binomial_test():
  stats = pytest.importorskip("scipy.stats")
  for gained, lost in itertools.product(range(0, 40, 3), range(1, 40, 5)):
    assert intervals.mcnemar(gained, lost) == pytest.approx(
      stats.binomtest(gained, gained + lost).pvalue
    )
  assert 0.0 <= intervals.mcnemar(900, 1100) < 1e-4  # large counts stay exact


def test_pass_at_k_by_enumeration():
  for n in range(1, 7):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
      draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
      assert intervals.pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_bootstrap_agrees_with_the_normal_interval_and_its_seed():
  values = np.random.default_rng(1).normal(3.0, 1.0, 400)
  low, high = intervals.bootstrap(values, range(400), seed=0)
  half = 1.96 * values.std() / 20
  assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
  assert (
    [low, high]
    == intervals.bootstrap(values, range(400), seed=0)
    != intervals.bootstrap(values, range(400), seed=1)
  )
  stats = pytest.importorskip("scipy.stats")
  theirs = stats.bootstrap(
    (values,), np.mean, method="percentile", rng=np.random.default_rng(2)
  ).confidence_interval
  assert (low, high) == pytest.approx(theirs, abs=0.005)
  assert intervals.bootstrap([], []) is None


def test_repeated_questions_do_not_narrow_intervals():
  once = [plain(i, correct=float(i % 3 == 0)) for i in range(60)]
  four = [
    plain(f"{i}x{j}", correct=float(i % 3 == 0), question=f"q{i}")
    for i in range(60)
    for j in range(4)
  ]
  one, many = summary.summarize(once, "multi_domain"), summary.summarize(four, "multi_domain")
  assert (many["n"], many["questions"]) == (240, 60)
  for key in ("accuracy_ci", "format_ci", "mean_reward_ci"):
    assert many[key] == pytest.approx(one[key], abs=1e-9), key
  assert many["accuracy"] == one["accuracy"]


@pytest.mark.parametrize(
  "answers, right",
  [
    (
      [("5", True), ("5.0", True), ("7", False), ("7", False), ("5", True)],
      True,
    ),  # equal numbers vote together
    ([("7", False), ("5", True)], False),  # a tie: the earlier answer
    ([(None, False), (None, False), ("5", True)], True),  # ill-formed samples have no vote
    ([(None, False)], False),
  ],
)
def test_majority(answers, right):
  assert checking.majority("math", answers) is right


def test_summary_of_samples():
  rows = [
    plain(i, correct=c, parsed_answer="5" if c else "6", sample=s)
    for i, wins in enumerate(((1, 1, 0, 0), (0, 0, 0, 0)))
    for s, c in enumerate(wins)
  ]
  out = summary.summarize(rows, "multi_domain")
  assert out["pass@1"] == pytest.approx(0.25) and out["pass@4"] == 0.5
  assert out["pass@2"] == pytest.approx((1 - 1 / 6) / 2)
  assert out["maj@4"] == 0.5 and out["accuracy"] == 0.25 and out["n"] == 2


def test_creative_and_unanswered_rows_have_no_accuracy():
  creative = [plain(i, correct=None, domain="summarization", partial=None) for i in range(3)]
  for r in creative:
    r["correct_lenient"], r["rewards"] = None, {s: {"a": 0.5} for s in rewards.SYSTEMS}
  out = summary.summarize(creative, "multi_domain")
  assert (
    out["accuracy"] is None
    and out["accuracy_ci"] is None
    and out["mean_reward"] == 0.5
    and out["scored"] == 0
  )


# --------------------------------------------------------------------------------------------------
# ------------ comparing
def test_comparison_pairs_and_splits_the_gain():
  rows = [r for r in make_rows(20) if r["domain"] == "math"]
  text = lambda r: {0: f"The answer is {r['answer']}.", 1: well("1000")}.get(
    int(r["id"][5:]) % 4, well(r["answer"])
  )
  before = respond(rows, text)
  after = respond(rows, lambda r: well("1000") if r["id"] == "math-2" else well(r["answer"]))
  change = comparison.compare_responses(before, after[::-1], "multi_domain")
  accuracy = change["overall"]["accuracy"]
  assert (accuracy["gained"], accuracy["lost"], accuracy["n"]) == (10, 1, 20)
  assert accuracy["p"] == intervals.mcnemar(10, 1) and accuracy["ci"][0] > 0
  assert (
    accuracy["difference"]
    == pytest.approx(9 / 20)
    == pytest.approx(accuracy["after"] - accuracy["before"])
  )
  # 5 rows were right but without tags (format learned); 5 wrong ones became right and 1 right one
  # wrong (answers improved).
  assert change["overall"]["format_learned"]["difference"] == pytest.approx(5 / 20)
  assert change["overall"]["answers_improved"]["difference"] == pytest.approx(4 / 20)
  assert change["flipped"]["lost"] == ["math-2"] and len(change["flipped"]["gained"]) == 10
  back = comparison.compare_responses(after, before, "multi_domain")
  assert back["overall"]["accuracy"]["difference"] == -accuracy["difference"] and back["flipped"][
    "gained"
  ] == ["math-2"]


def test_the_split_is_exact_on_random_verdicts():
  rng = random.Random(0)
  for _ in range(30):
    sides = []
    for _ in range(2):
      side = [
        plain(i, correct=float(rng.random() < 0.5), domain=rng.choice(("math", "logic")))
        for i in range(12)
      ]
      for r in side:
        r["domain"], r["correct_lenient"] = (
          ("math", "logic")[int(r["id"][1:]) % 2],
          r["correct"] or rng.random() < 0.4,
        )
      sides.append(side)
    for part in (change := comparison.compare_responses(*sides, "multi_domain"))[
      "domains"
    ].values():
      assert part["accuracy"]["difference"] == pytest.approx(
        part["format_learned"]["difference"] + part["answers_improved"]["difference"]
      )
    assert len(change["flipped"]["gained"]) == change["overall"]["accuracy"]["gained"]


def test_comparison_uses_shared_rows_only():
  before = [plain(i, correct=0.0) for i in range(10)]
  after = [plain(i, correct=1.0) for i in range(5, 15)]
  after[0]["question"] = "another question under the same id"
  assert comparison.compare_responses(before, after, "multi_domain")["n"] == 4
  with pytest.raises(InputError, match="share no row"):
    comparison.compare_responses(before[:3], after, "multi_domain")


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
  "max_new_tokens": 64,
}


def test_four_changed_answers_are_no_rise():
  """A bootstrap of four changes in one direction excludes zero; the exact test does not."""
  before = [plain(i, correct=0.0) for i in range(200)]
  after = [plain(i, correct=float(i < 4)) for i in range(200)]
  results = evaluate.collect(after, FACTS, before, "eval_sft")
  accuracy = results["compare"]["overall"]["accuracy"]
  assert accuracy["ci"][0] > 0 and accuracy["p"] > 0.1
  assert "Accuracy did not change measurably" in comparison.describe(accuracy, "Accuracy")
  many = [plain(i, correct=float(i < 12)) for i in range(200)]
  risen = evaluate.collect(many, FACTS, before, "eval_sft")["compare"]["overall"]["accuracy"]
  assert "Accuracy rose" in comparison.describe(risen, "Accuracy")


def test_few_shared_rows_and_other_settings_are_doubted():
  after = [plain(i, correct=1.0) for i in range(45)]
  results = evaluate.collect(
    after,
    FACTS | {"differs": {"max_new_tokens": 32}},
    [plain(i, correct=0.0) for i in range(10)],
    "x",
  )
  said = " ".join(findings.doubts(results))
  assert (
    "Only 10 of 45 rows are also in the evaluation compared with" in said
    and "had max_new_tokens 32 (here 64)" in said
  )


def test_a_repeated_question_is_one_pair_in_the_test():
  before = [plain(i, correct=0.0, question="same") for i in range(8)]
  after = [plain(i, correct=1.0, question="same") for i in range(8)]
  accuracy = comparison.compare_responses(before, after, "multi_domain")["overall"]["accuracy"]
  assert (accuracy["gained"], accuracy["p"]) == (1, 1.0)


# --------------------------------------------------------------------------------------------------
# -------------- verdicts
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


# --------------------------------------------------------------------------------------------------
# ----- rows and prompts
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
    ([[1]], "no text for id"),
    ([rows[0], rows[0]], "test.jsonl:2 repeats the id"),
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


# --------------------------------------------------------------------------------------------------
# -------------- sampling
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
    for row, ids in zip(part, completions):
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


# --------------------------------------------------------------------------------------------------
# ----------- whole runs
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
  keep = lambda folder: {
    k: v
    for k, v in json.loads((folder / "results.json").read_text()).items()
    if k not in ("seconds", "tokens_per_second", "git_commit")
  }
  assert keep(out) == keep(finished)


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
  said = "4 rows of verifiable domains could not be checked (no answer, or --code_rewards=off) and were evaluated for format only"
  assert said in capsys.readouterr().out


def command(*argv):
  return subprocess.run(
    [sys.executable, str(REPO / "evaluate.py"), *argv], capture_output=True, text=True, timeout=100
  )


def test_table_of_a_run(finished, data, tmp_path):
  result = command(f"--table={data.parent}")
  assert result.returncode == 0, result.stderr
  assert (
    "base" in result.stdout
    and "format rate" in result.stdout
    and str(finished / "report.html") in result.stdout
  )
  assert re.search(r"\d\.\d% \[\d+\.\d, \d+\.\d\]", result.stdout)


@pytest.mark.parametrize(
  "argv, message",
  [
    (["--table=/nowhere"], "holds no eval_"),
    (["--data_dir=/nowhere"], "/nowhere does not exist"),
    (["--samples=4"], "add --temperature"),
    (["--data_dir={data}", "--split=huge"], "huge.jsonl does not exist"),
    (["--data_dir={data}", "--compare=/nowhere/results.json"], "results.json does not exist"),
  ],
)
def test_bad_input_is_one_line(argv, message, data):
  result = command(*(a.format(data=data) for a in argv))
  assert result.returncode == 2 and result.stdout == "" and message in result.stderr
  assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr


# --------------------------------------------------------------------------------------------------
# ----------- the judge
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


# --------------------------------------------------------------------------------------------------
# ----------- the report
NASTY = (
  '<script>window.hacked = 1</script><img src="http://192.0.2.1/x.png" onerror="window.hacked = 1">```\n'
  "# not a heading\n| a | b |"
)


@pytest.fixture(scope="module")
def report_dir(tmp_path_factory):
  """A full report: comparison, charts, flips both ways, and text that tries to break out of it."""
  out = tmp_path_factory.mktemp("report") / "eval_grpo"
  out.mkdir()
  rows, rng = make_rows(24), random.Random(0)
  for r in rows:
    r["question"] += NASTY if r["id"].endswith("-3") else ""

  def answers(p_format, p_right):
    return lambda r: (
      (
        well(r["answer"] or "The cats ran.")
        if rng.random() < p_format
        else f"The answer is {r['answer']} {NASTY}"
      )
      if rng.random() < p_right
      else well("1000")
    )

  before, after = respond(rows, answers(0.4, 0.7)), respond(rows, answers(0.95, 0.85))
  (out.parent / "metrics.jsonl").write_text(
    "".join(
      json.dumps(
        {
          "step": i,
          "reward": 0.3 + i / 100,
          "format": 0.5 + i / 100,
          "accuracy": None if i == 3 else 0.4,
          "kl": float(i),
          "entropy": 1.0,
          "completion_tokens": 40 + i,
        }
      )
      + "\n"
      for i in range(40)
    )
  )
  facts = {
    "model": "tiny",
    "checkpoint": "grpo",
    "data_dir": "data",
    "split": "test",
    "rows": "r",
    "weights": "w",
    "samples": 1,
    "temperature": 0.0,
    "max_new_tokens": 64,
    "seed": 0,
    "prompt_variant": "",
    "prompt_hash": "h",
    "prompt_mismatch": False,
    "recipe": "multi_domain",
    "devices": "1 cpu",
    "dtype": "float32",
    "seconds": 12.0,
    "tokens_per_second": 600.0,
    "check_failures": {},
    "contamination": None,
    "judge": None,
  }
  results = evaluate.collect(after, facts, before, "eval_sft/results.json")
  for variant in ("indented", "no_newline"):
    (out.parent / variant).mkdir()
    spoiled = evaluate.collect(before, {**facts, "prompt_variant": variant}, [], "")
    (out.parent / variant / "results.json").write_text(json.dumps(spoiled))
    (out.parent / variant / "config.json").write_text("{}")
  (out.parent / "theirs").mkdir()
  (out.parent / "theirs" / "results.json").write_text('{"acc": 1}')  # of another program
  (out.parent / "theirs" / "config.json").write_text("{}")
  report.write_report(results, after, before, out, str(out.parent))
  return out


class Tags(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.tags = []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))


def test_html_is_self_contained_and_inert(report_dir):
  text = (report_dir / "report.html").read_text()
  parser = Tags()
  parser.feed(text)
  tags = collections.Counter(tag for tag, _ in parser.tags)
  assert not {"script", "link", "iframe", "object", "form", "base"} & set(tags)
  links = [attrs["href"] for tag, attrs in parser.tags if tag == "a"]
  anchors = {f"#{attrs['id']}" for _, attrs in parser.tags if "id" in attrs}
  assert set(links) == anchors and len(links) > 10  # the contents: they stay on the page
  assert tags["img"] == 6 and all(
    a["src"].startswith("data:image/png;base64,") and a["alt"] for t, a in parser.tags if t == "img"
  )
  assert not any(name.startswith("on") for _, attrs in parser.tags for name in attrs)
  assert html.escape(NASTY.split("```")[0]) in text and "url(" not in text and "@import" not in text


def test_markdown_keeps_model_text_inside_fences(report_dir):
  text = (report_dir / "report.md").read_text()
  outside, fence = [], None
  for line in text.split("\n"):
    mark = re.match(r"(`{3,})(text)?$", line)
    if fence is None and mark:
      fence = mark[1]
    elif fence is not None:
      fence = None if line == fence else fence
    else:
      outside.append(line)
  assert fence is None and "<script" not in "\n".join(outside) and "# not a heading" not in outside
  assert "<script" in text
  for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
    assert (report_dir / name).is_file()
  for heading in (
    "In one minute",
    "Reasons for doubt",
    "Results",
    "Change, paired by row",
    "Rewards by component",
    "Samples",
    "What was run",
    "Contamination",
    "Versions",
  ):
    assert f"\n## {heading}\n" in text


def test_report_says_whether_it_helped(report_dir):
  text = (report_dir / "report.md").read_text()
  assert re.search(r"Accuracy rose: \d+\.\d% → \d+\.\d%, \+\d+\.\d points \(95% interval \+", text)
  assert "format learned: +" in text and "newly right" in text and "newly wrong" in text


@pytest.mark.parametrize("text,shown", [("B", "'b'"), ("<script>", "one and the same text")])
def test_one_answer_to_everything_is_doubted(text, shown):
  """A policy that always says B is right as often as B is: that is no ability, and the report says
  so.
  """
  results = lambda stuck: evaluate.collect(
    respond(
      make_rows(24),
      lambda r: well(text if r["domain"] == stuck else r["answer"] or "The cats ran."),
    ),
    FACTS,
    [],
    "",
  )
  constant, varied = results("science"), results("")
  said = f"of the answers in science are {shown}, right 0% of the time: a constant"
  assert any(said in line for line in findings.doubts(constant))
  assert not any("a constant" in line for line in findings.doubts(varied))
  first = next(r["id"] for r in make_rows(24) if r["domain"] == "science")
  one = evaluate.collect(
    respond(make_rows(24), lambda r: well(text) if r["id"] == first else "no tags"), FACTS, [], ""
  )
  assert not any(
    "a constant" in line for line in findings.doubts(one)
  )  # one well-formed answer is no habit


def test_a_lower_limit_keeps_only_what_was_complete():
  rows = [plain(n, tokens=n, correct=None if n == 30 else 1.0) for n in (9, 20, 21, 30)]
  at = lambda limit: summary.summarize(charts.shortened(rows, limit), "multi_domain")
  assert [at(n)["format_rate"] for n in (8, 9, 20, 21, 30)] == [0.0, 0.25, 0.5, 0.75, 1.0]
  assert at(9)["accuracy"] == pytest.approx(1 / 3) and at(20)["truncated_rate"] == 0.5
  assert charts.shortened(rows, 30) == rows


def test_training_chart_tolerates_absence(tmp_path):
  assert charts.training_chart("", tmp_path / "c.png") is False
  assert charts.training_chart(str(tmp_path), tmp_path / "c.png") is False
  (tmp_path / "metrics.jsonl").write_text(
    '{"step": 0, "reward": 0.1}\n{"step": 1, "reward": NaN}\n{"time": 3}\n'
  )
  assert charts.training_chart(str(tmp_path), tmp_path / "c.png") is False  # one point is no curve
  with open(tmp_path / "metrics.jsonl", "a") as f:
    f.write('{"step": 2, "reward": 0.3}\n{"step": 3, "rew')  # the run was killed while it wrote
  assert charts.training_chart(str(tmp_path), tmp_path / "c.png") is True


CHROMIUM, DRIVER = (
  shutil.which("chromium") or shutil.which("chromium-browser"),
  shutil.which("chromedriver"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
  """A WebDriver call on a real headless Chromium: call(method, path, body) -> value."""
  if not (CHROMIUM and DRIVER):
    pytest.skip(
      "chromium and chromedriver are not installed: the report was not looked at in a browser"
    )
  import socket

  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
  process = subprocess.Popen(
    [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  )

  def call(method, path, body=None):
    data = json.dumps(body or {}).encode() if method == "POST" else None
    request = urllib.request.Request(
      f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
      return json.loads(reply.read())["value"]

  for _ in range(100):
    try:
      call("GET", "/status")
      break
    except OSError:
      time.sleep(0.1)
  arguments = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
  ]

  def look(page, width):
    options = {
      "binary": CHROMIUM,
      "args": arguments,
      "mobileEmulation": {"deviceMetrics": {"width": width, "height": 900, "pixelRatio": 1}},
    }
    opened = call(
      "POST", "/session", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
    )
    session = f"/session/{opened['sessionId']}"
    call("POST", f"{session}/url", {"url": page.as_uri()})
    script = """document.querySelectorAll('details').forEach(d => d.open = true);
      return {hacked: window.hacked || 0, wide: document.documentElement.scrollWidth, width: innerWidth,
              images: [...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width]),
              requests: performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
              font: parseFloat(getComputedStyle(document.body).fontSize), text: document.body.innerText}"""
    seen = call("POST", f"{session}/execute/sync", {"script": script, "args": []})
    call("DELETE", session)
    return seen

  yield look
  process.terminate()
  process.wait()


@pytest.mark.parametrize("width", [390, 1280])
def test_report_in_a_real_browser(browser, report_dir, width):
  seen = browser(report_dir / "report.html", width)
  assert (
    seen["width"] == width and seen["wide"] <= width
  )  # nothing makes the page itself scroll sideways
  assert not seen["hacked"] and not seen["requests"] and seen["font"] >= 15
  assert len(seen["images"]) == 6 and all(
    natural >= 900 and 300 <= shown <= width for natural, shown in seen["images"]
  )
  assert (
    "In one minute" in seen["text"] and "window.hacked" in seen["text"]
  )  # the nasty text is shown, as text
