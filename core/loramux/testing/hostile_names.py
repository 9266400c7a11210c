"""Adapter names as attackers write them; whatever a resolver makes of them, it finds nothing."""

from __future__ import annotations

ESCAPING_NAMES = (
    "..",
    ".",
    "",
    "/",
    "../secret",
    "../root-of-others/x",
    "good/..",
    "good/../../secret",
    "good/./",
    "./good",
    "good/",
    "/good",
    "good//",
    "//secret",
    "...",
    "..../secret",
    ".. /secret",
    " ../secret",
    ". ./secret",
    ".hidden",
    "good/.hidden",
    "..\\secret",
    "good\\..\\..\\secret",
    "C:/secret",
    "C:secret",
    "c:\\secret",
    "\\\\server\\share",
    "//server/share",
    "file:///etc/passwd",
    "%2e%2e/secret",
    "%2E%2E%2Fsecret",
    "..%2fsecret",
    "..%5Csecret",
    "%252e%252e%252fsecret",
    "good%00",
    "..%c0%af",
    "good\x00",
    "good\x00/../../secret",
    "good\n",
    "\r../secret",
    "\t",
    "\u202e../secret",
    "\ufeff../secret",
    "\u200b../secret",
    "\uff0e\uff0e/secret",
    "\uff0e\uff0e\uff0fsecret",
    "..\uff0fsecret",
    "\u2024\u2024/secret",
    "\u2025/secret",
    "\u2026/secret",
    "..\u2215secret",
    "..\u2044secret",
    "..\u29f8secret",
    "..\uff3csecret",
    "..\ufe68secret",
    "..\u2216secret",
    "\ufe52\ufe52/secret",
    "\u3002\u3002/secret",
    "\uff05\uff12\uff45/secret",
    "\uff23:/secret",
    "o\u0308",
    "\ud800",
    "/".join(["good", *[".."] * 30, "etc"]),
)
"""Names that lead out of a directory, a prefix or a URL path, if they are joined to it; plainly,
encoded, in characters that look like others or fold into them, or cut short by a control character.
"""

ODD_NAMES = (
    "~",
    "~root",
    "$HOME",
    "$(id)",
    "x" * 256,
    "x" * 5000,
    "/".join(["x"] * 3000),
    "100%",
    "a b",
    "*",
    "**",
    "goo[d]",
    "go?d",
    "{good}",
    "good?x=1",
    "good#x",
    "good@x",
    "user:password@host",
    "' OR ''='",
)
"""Names that lead nowhere by their form, but that a shell, a glob, a URL or a database would read
as more than a name."""

HOSTILE_NAMES = (*ESCAPING_NAMES, *ODD_NAMES)
"""All of them. An adapter that a client asks for as ``good`` may exist; none of these does."""


def second_spellings(name: str) -> tuple[str, ...]:
    """Other ways to write the name of an adapter that exists.

    One adapter has one name: who may ask for ``team/a`` and nothing else may be told apart by the
    name alone.
    """
    return (
        f"./{name}",
        f"/{name}",
        f"//{name}",
        f"{name}/",
        f"{name}/.",
        f"{name}/../{name}",
        f"x/../{name}",
        f"{name}\\",
        f"{name}.",
        f"{name} ",
        f" {name}",
        f"{name}%00",
        f"{name}%2e",
        f"%{ord(name[0]):02x}{name[1:]}",
        _in_full_width(name),
    )


def _in_full_width(name: str) -> str:
    """The name in characters that Unicode's compatibility folding (NFKC) makes the plain ones."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in name)
