"""Write assets/tales-words.txt, the words of the tokenizer `tales-words`: python -m tools.tales_words

One token a line: each word and each run of punctuation that a tale can contain, without its space and with it, then
the digits with a space. The 256 single bytes come before them and are not listed (diffuapriel/tokenizer.py). The ids
of trained models depend on the order of the lines, so the file changes only together with a new name.
"""

from __future__ import annotations

from diffuapriel import assets
from diffuapriel.tales import language as tales
from diffuapriel.tales.grammar.grammar import Literal, split_pieces
from diffuapriel.tokenizer import WORDS_FILE


def words() -> list[str]:
    """Every piece of text that a tale of any level can contain, wrong pronouns included, stripped and sorted."""
    texts: list[str] = []
    for level in tales.LEVELS:
        grammar = tales.grammar(level)
        texts += [piece for node in grammar.nodes if isinstance(node, Literal) for piece in node.pieces]
        for kind in grammar.lexicon.kinds.values():
            texts += [surface for form in kind.forms.values() for surface in form.values()]
            texts += [surface for surfaces in kind.stray.values() for surface in surfaces]
    return sorted({piece.strip() for text in texts for piece in split_pieces(text)})


def lines() -> list[str]:
    """The tokens of the table in the order of their ids, single bytes excluded."""
    tokens = [form for word in words() for form in (word, f" {word}")]
    tokens += [f" {digit}" for digit in range(10)]
    return [token for token in tokens if len(token) > 1 and token != " 's"]  # no text is split into " 's"


if __name__ == "__main__":
    path = assets.root() / WORDS_FILE
    path.write_text("\n".join(lines()) + "\n", encoding="ascii", newline="\n")
    print(f"{path}: {len(lines()):,} tokens")
