"""Text of a model or of data, made safe to look at: what a terminal, Markdown or a browser would
obey becomes visible.

ESC can repaint a terminal or set its title, a right-to-left override turns "evil" into "live", a
zero-width character hides a word from a search. `visible` shows each as its code, `hide_secrets`
takes what is private out of an address.
"""

import re
import unicodedata
import urllib.parse

# Cc control, Cf format (bidirectional marks, zero width, tags), Cs lone surrogates, Zl and Zp line
# separators.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
# A line feed and a tab are layout; the two joiners spell Persian and Hindi words and join emoji.
ALLOWED = "\n\t\u200c\u200d"


def visible(text: str) -> str:
  """`text` with every character that acts without being seen written as its code: "a\\x1b[2J" →
  "a\\\\x1b[2J".
  """
  text = text.replace("\r\n", "\n")
  # Most texts hold none, and a look-up in the Unicode tables per character is slow.
  if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
    return text
  return "".join(show_character(character) for character in text)


def show_character(character: str) -> str:
  if character in ALLOWED or unicodedata.category(character) not in UNSEEN:
    return character
  return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def hide_secrets(url: str) -> str:
  """Scheme, host and port of an address. A name, a key or a token may stand in everything else, the
  path included.

  "https://me:key@api.example.com:8443/v1/key?token=t" → "https://api.example.com:8443"
  """
  match = re.match(r"(https?)://([^/?#\s]*)", url, re.I)
  if not match:
    return "(an address that cannot be read)" if url else ""
  host = urllib.parse.unquote(match[2]).rpartition("@")[2]
  return f"{match[1].lower()}://{host}"
