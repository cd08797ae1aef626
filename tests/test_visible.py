"""What a terminal or a page would obey is shown as its code, and a judge's secret stays out of
every record.
"""

import pytest
from absl import flags

from lib import command_line, folders
from lib.visible import hide_secrets, visible


@pytest.mark.parametrize(
  "text, shown",
  [
    ("plain, two\nlines\tand a tab", "plain, two\nlines\tand a tab"),
    ("naïve 漢字 ∑ 🙂", "naïve 漢字 ∑ 🙂"),
    ("Windows\r\nline", "Windows\nline"),
    ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    ("over\rwritten", "over\\rwritten"),
    ("\u202elive\u202c", "\\u202elive\\u202c"),
    ("pay\u200bpal", "pay\\u200bpal"),
    ("one\u2028two", "one\\u2028two"),
    ("half \ud83d pair", "half \\ud83d pair"),
    ("tag \U000e0041", "tag \\U000e0041"),
    ("👩\u200d🚀", "👩\u200d🚀"),
  ],
)
def test_characters_that_act_unseen_are_spelled_out(text, shown):
  assert visible(text) == shown


def test_every_terminal_line_goes_through_it(capsys):
  command_line.say("a \x1b[2J b \ud800")
  assert capsys.readouterr().out == "a \\x1b[2J b \\ud800\n"


@pytest.mark.parametrize(
  "url, kept",
  [
    ("https://api.example.com/v1", "https://api.example.com"),
    ("https://me:s3cret@api.example.com:8443/v1", "https://api.example.com:8443"),
    ("https://api.example.com/s3cret/v1?key=s3cret#s3cret", "https://api.example.com"),
    ("https://s3cret%40more@api.example.com", "https://api.example.com"),
    ("ftp://s3cret@host", "(an address that cannot be read)"),
    ("", ""),
  ],
)
def test_an_address_is_recorded_without_secrets(url, kept):
  assert hide_secrets(url) == kept and "s3cret" not in hide_secrets(url)


def test_a_config_records_the_given_flags_but_no_secret(tmp_path):
  values = flags.FlagValues()
  flags.DEFINE_string("judge_url", "", "The judge.", flag_values=values)
  flags.DEFINE_float("beta", 0.04, "The weight.", flag_values=values)
  flags.DEFINE_bool("remat", True, "Recompute.", flag_values=values)
  values(["train.py", "--judge_url=https://u:s3cret@h/v1?k=s3cret", "--noremat"])
  folders.write_config(tmp_path, "grpo", values, "tags")
  assert "s3cret" not in (tmp_path / "config.json").read_text()
  config = folders.read_config(tmp_path, "train.py")
  assert config["given"] == ["--judge_url=https://h", "--noremat"]
  assert config["flags"] == {"beta": 0.04, "judge_url": "https://h", "remat": False}
