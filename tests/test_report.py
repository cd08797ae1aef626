"""The report: what it says, that a model's text stays text in it, and how a browser shows it."""

import collections
import html.parser
import json
import random
import re
import shutil
import subprocess
import time
import urllib.request

import pytest
from evaluations import FACTS, make_rows, plain, respond, well

import evaluate
from lib import charts, curves, findings, report, summary
from lib.visible import visible

NASTY = (
  "\x1b[31m\u202e"
  "<script>window.hacked = 1</script>"
  '<img src="http://192.0.2.1/x.png" onerror="window.hacked = 1">```\n'
  "# not a heading\n| a | b |"
)


@pytest.fixture(scope="module")
def report_dir(tmp_path_factory):
  """A full report: comparison, charts, flips both ways, and text that tries to break out of it."""
  out = tmp_path_factory.mktemp("report") / "eval_grpo"
  out.mkdir()
  rows, rng = make_rows(24), random.Random(0)
  for number, r in enumerate(rows):
    r["metadata"] = r.get("metadata", {}) | ({"level": f"level_{number % 2}"} if number else {})
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
  flags = {"algorithm": "grpo", "beta": -1.0, "learning_rate": 3e-6, "seed": 5, "lora_rank": 16}
  stage = {"stage": "grpo", "steps": 40, "git_commit": "abc", "given": ["--seed=5"], "flags": flags}
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
    "by": "level",
    "devices": "1 cpu",
    "dtype": "float32",
    "seconds": 12.0,
    "tokens_per_second": 600.0,
    "check_failures": {},
    "contamination": None,
    "judge": None,
    "code_rewards": "on",
    "trained": [stage],
  }
  results = evaluate.collect(after, facts, before, "eval_sft/results.json")
  # The stages before it, of the same rows; and one of other rows, which is no stage of this run.
  for name, rows_of in (("eval_base", "r"), ("eval_sft", "r"), ("eval_other", "x")):
    (out.parent / name).mkdir()
    earlier = evaluate.collect(before, {**facts, "checkpoint": name, "rows": rows_of}, [], "")
    (out.parent / name / "results.json").write_text(json.dumps(earlier))
    (out.parent / name / "config.json").write_text("{}")
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
  assert (
    html.escape(visible(NASTY).split("```")[0]) in text
    and "url(" not in text
    and "@import" not in text
  )


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


def test_nothing_unseen_reaches_the_report(report_dir):
  for name in ("report.md", "report.html"):
    text = (report_dir / name).read_text()
    assert "\x1b" not in text and "\u202e" not in text
    assert r"\x1b[31m\u202e" in text  # shown as what it is


def test_the_report_leads_with_proof(report_dir):
  """What was trained, the stages side by side and the paired change stand before all else."""
  text = (report_dir / "report.md").read_text()
  assert text.startswith("# tiny after GRPO: accuracy ")
  lead = text.split("\n\n")[1]
  assert "GRPO, 40 steps at learning rate 3e-6, β 0.04" in lead and "seed 5" in lead
  table = text.split("## From stage to stage")[1].split("## ")[0]
  assert re.search(r"Base model +\| +After SFT +\| +After GRPO +\| +Paired change", table)
  assert re.search(r"\| Accuracy: math +\|", table)
  assert "python train_grpo.py \\\n  --seed=5" in text
  order = ["In one minute", "From stage to stage", "Change, paired by row", "Reasons for doubt"]
  places = [text.index(f"\n## {title}\n") for title in order]
  assert places == sorted(places) and places[-1] < text.index("\n## Results\n")


def test_values_of_a_metadata_field_have_their_own_table(report_dir):
  table = (report_dir / "report.md").read_text().split("## By level")[1].split("## ")[0]
  assert re.search(r"\| level +\| +questions +\| +accuracy +\| +paired change", table)
  counts = {}
  for name, count in re.findall(r"\| ([a-z0-9 ]+?) +\| +(\d+) ", table):
    counts[name] = int(count)
  # The first row lacks the field.
  assert list(counts) == ["level 0", "level 1", "none", "overall"] and counts["none"] == 1
  assert sum(counts.values()) == 2 * counts["overall"]


def test_details_are_folded_and_names_are_words(report_dir):
  page = (report_dir / "report.html").read_text()
  shown, folded = page.split('<p class="more">Details</p>')
  for title in ("Format by domain", "Rewards by component", "Rows that changed", "Versions"):
    assert f"<details><summary>{title}</summary>" in folded, title
  assert "math-1" not in re.sub(r"<pre>.*?</pre>", "", shown, flags=re.S)  # no ids but in details
  assert "creative_writing" not in page and "multi_domain" not in page
  assert "prefers-color-scheme: dark" in page


def test_what_fell_is_said():
  """A gain overall must not hide a domain that lost, whether or not the fall is measurable."""
  domain = ["math"] * 150 + ["logic"] * 50
  before = [plain(i, correct=i % 10 < 5, domain=domain[i]) for i in range(200)]
  after = [plain(i, correct=i < 150 or i % 10 < 4, domain=domain[i]) for i in range(200)]
  results = evaluate.collect(after, FACTS, before, "eval_sft")
  [said] = [line for line in findings.doubts(results) if "fell" in line]
  assert said.startswith("Accuracy in logic fell by 10.0 points (95% interval -")
  assert "0 questions better, 5 worse, exact p = 0.062): within chance, but not ruled out" in said
  assert any("see the reasons for doubt: accuracy in logic" in x for x in findings.minute(results))


def test_validation_is_drawn_from_step_0():
  rows = [
    {"step": 0, "eval_accuracy": 0.1},
    {"step": 1, "reward": 1.0},
    {"step": 2, "reward": None},
  ]
  steps, values = curves.known_points([*rows, {"step": 2, "eval_accuracy": 0.4}], "eval_accuracy")
  assert (steps.tolist(), values.tolist()) == ([0.0, 2.0], [0.1, 0.4])
  assert curves.label_of("eval_accuracy") == "validation accuracy"
  assert curves.running_mean(steps + 1, 2).tolist() == [1.0, 2.0]


def test_report_says_whether_it_helped(report_dir):
  text = (report_dir / "report.md").read_text()
  assert re.search(r"Accuracy rose: \d+\.\d% → \d+\.\d%, \+\d+\.\d points \(95% interval \+", text)
  assert "format learned: +" in text and "newly right" in text and "newly wrong" in text


@pytest.mark.parametrize("text,shown", [("B", "'b'"), ("<script>", "one and the same text")])
def test_one_answer_to_everything_is_doubted(text, shown):
  """A policy that always says B is right as often as B is: no ability, and the report says so."""

  def results(stuck: str) -> dict:
    """Of a policy that answers everything rightly, but says one text in the domain `stuck`."""

    def answer(row):
      return well(text if row["domain"] == stuck else row["answer"] or "The cats ran.")

    return evaluate.collect(respond(make_rows(24), answer), FACTS, [], "")

  constant = results("science")
  varied = results("")
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

  def at(limit: int) -> dict:
    return summary.summarize(charts.shortened(rows, limit), "multi_domain")

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
    script = """
      document.querySelectorAll('details').forEach(d => d.open = true);
      const requests = performance.getEntriesByType('resource').map(e => e.name);
      return {
        hacked: window.hacked || 0,
        wide: document.documentElement.scrollWidth,
        width: innerWidth,
        images: [...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width]),
        requests: requests.filter(n => !n.startsWith('data:')),
        hidden: [...document.querySelectorAll('section table')]
          .map(t => t.scrollWidth - t.clientWidth),
        font: parseFloat(getComputedStyle(document.body).fontSize),
        text: document.body.innerText,
      }"""
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
  assert max(seen["hidden"]) == 0  # nor a table of the proof
  assert not seen["hacked"] and not seen["requests"] and seen["font"] >= 15
  assert len(seen["images"]) == 6 and all(
    natural >= 900 and 300 <= shown <= width for natural, shown in seen["images"]
  )
  assert (
    "In one minute" in seen["text"] and "window.hacked" in seen["text"]
  )  # the nasty text is shown, as text
