"""Prose for haystacks that needs no download: the topics of CPython's own reference manual.

The text differs a little between Python versions (its digest is in the assets' manifest).
"""

import re

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def sentences(text: str) -> list[str]:
    """Split prose after full stops, question and exclamation marks that white space follows."""
    return SENTENCE_END.split(text)


def packaged_prose() -> str:
    """Return `pydoc_data.topics` as plain sentences, one topic after the other by name, each paragraph once."""
    from pydoc_data.topics import topics

    paragraphs = (_plain(paragraph) for name in sorted(topics) for paragraph in re.split(r"\n\s*\n", topics[name]))
    return " ".join(dict.fromkeys(filter(_is_prose, paragraphs)))


def _plain(paragraph: str) -> str:
    """Return a paragraph on one line, words joined that a line break split, without marks of emphasis."""
    line = " ".join(re.sub(r"-\n\s*", "-", paragraph).split())
    return re.sub(r"\*{1,2}(\w[^*]*)\*{1,2}", r"\1", line)


def _is_prose(line: str) -> bool:
    """Tell sentences from headings, signatures, examples, tables and grammar."""
    code = (">>>", "::=", "==", "--", "|")
    return (
        re.match(r'["A-Z]', line) is not None
        and line.endswith(".")
        and len(line.split()) >= 8
        and not any(mark in line for mark in code)
    )
