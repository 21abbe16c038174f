"""Compiles templates to the graph of a grammar. See grammar.py for the template language."""

from __future__ import annotations

import re

from diffuapriel.tales.grammar.grammar import (
    Branch,
    Expression,
    Grammar,
    Lexicon,
    Literal,
    Node,
    Pick,
    Slot,
    Source,
    Value,
    followers,
)

_ATOM = re.compile(r"( ?\{[^{}]*\})")
_SPEC = re.compile(r"(?P<name>\w+)(?:\.(?P<form>\w+))?(?:\*(?P<count>\w+))?(?::(?P<source>.+))?")
_SOURCE = re.compile(r"(?P<base>\w+)(?:(?P<op>[-+|@])(?P<other>\w+))?(?P<excluded>(?:!\w+)*)")


def compile_grammar(expression: Expression, lexicon: Lexicon) -> Grammar:
    """The grammar of an expression. Raises ValueError, naming the slot, for a faulty template."""
    compiler = _Compiler(lexicon)
    compiler.declare(expression)
    start = compiler.build(expression, None, first=True)
    compiler.check_bound(start)
    ordered = frozenset(compiler.ordered_kinds)
    return Grammar(lexicon, compiler.nodes, start, compiler.names, compiler.kinds, ordered)


class _Compiler:
    """Compiles from the end to the start, so that every node is made with its followers.

    All registers of a grammar share one namespace; a name always has the same kind.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.nodes: list[Node] = []
        self.names: list[str] = []
        self.kinds: list[str] = []
        self.ordered_kinds: set[str] = set()
        self.drawn: dict[str, tuple[Value, ...]] = {}  # the values that each kind is drawn from

    def declare(self, expression: Expression) -> None:
        """Find every register and its kind, in the order of the text."""
        if isinstance(expression, str):
            for atom in _ATOM.findall(expression):
                self._declare_slot(atom.strip())
        else:
            parts = expression if isinstance(expression, list) else [e for _, e in expression.options]
            for part in parts:
                self.declare(part)

    def _declare_slot(self, atom: str) -> None:
        spec = _match(_SPEC, atom[1:-1])
        if spec["source"] is None:
            return
        base = _match(_SOURCE, spec["source"])["base"]
        if base in self.names:
            kind = self.kinds[self._register(base)]
        elif base in self.lexicon.classes:
            kind = self.lexicon.classes[base].kind
        else:
            raise ValueError(f"{atom}: {base!r} is neither a word class nor a register bound before")
        if spec["name"] not in self.names:
            self.names.append(spec["name"])
            self.kinds.append(kind)
        elif self.kinds[self._register(spec["name"])] != kind:
            raise ValueError(f"{atom}: the register {spec['name']!r} already holds another kind")

    def build(self, expression: Expression, follow: Node | None, *, first: bool) -> Node | None:
        """The first node of an expression that is followed by `follow`."""
        if isinstance(expression, list):
            for position, part in reversed(list(enumerate(expression))):
                follow = self.build(part, follow, first=first and position == 0)
            return follow
        if isinstance(expression, Pick):
            weights = [weight for weight, _ in expression.options]
            nodes = [self.build(option, follow, first=first) for _, option in expression.options]
            return self._add(Branch(weights, nodes))
        if expression and not first and expression[0] not in ".,!?":
            expression = " " + expression  # sentences and clauses are joined by one space
        for atom in reversed([part for part in _ATOM.split(expression) if part]):
            follow = self._add(self._slot(atom, follow) if "{" in atom else Literal(atom, follow))
        return follow

    def _add(self, node: Node) -> Node:
        node.index = len(self.nodes)
        self.nodes.append(node)
        return node

    def _register(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"no register is called {name!r}; known: {', '.join(self.names)}")
        return self.names.index(name)

    def _slot(self, atom: str, follow: Node | None) -> Slot:
        text = atom.strip()[1:-1]
        spec = _match(_SPEC, text)
        register = self._register(spec["name"])
        kind = self.kinds[register]
        words = self.lexicon.kinds[kind]
        form = None if spec["count"] else spec["form"] or ""
        for needed in ("", "s") if form is None else (form,):
            if needed not in words.forms:
                raise ValueError(f"{{{text}}}: a {kind} has no form {needed!r}; it has {list(words.forms)}")
        return Slot(
            text,
            kind=kind,
            words=words,
            form=form,
            count=self._register(spec["count"]) if spec["count"] else None,
            lead=" " if atom.startswith(" ") else "",
            source=self._source(spec["source"]) if spec["source"] else Source("=", a=register),
            bind=register if spec["source"] else None,
            next=follow,
        )

    def _source(self, text: str) -> Source:
        parts = _match(_SOURCE, text)
        base, operation = parts["base"], parts["op"]
        excluded = tuple(self._register(name) for name in parts["excluded"].split("!")[1:])
        word = self.lexicon.classes.get(base)
        if word is None or operation in ("|", "+", "-"):
            if operation not in ("|", "+", "-"):
                raise ValueError(f"{{{text}}}: write class, class@register, a|b, a-b or a+b")
            a, b = self._register(base), self._register(parts["other"])
            if operation != "|":
                self.ordered_kinds |= {self.kinds[a], self.kinds[b]}
            return Source(operation, a=a, b=b, excluded=excluded)
        if operation == "@":
            if word.given is None:
                raise ValueError(f"{{{text}}}: the class {base!r} depends on no other register")
            a = self._register(parts["other"])
            self.ordered_kinds |= {word.kind, self.kinds[a]}
            return Source("@", a=a, excluded=excluded, given=word.given)
        if not word.values:
            raise ValueError(f"{{{text}}}: the class {base!r} depends on another register: {base}@register")
        if self.drawn.setdefault(word.kind, word.values) != word.values:
            self.ordered_kinds.add(word.kind)
        return Source("*", excluded=excluded, values=word.values)

    def check_bound(self, start: Node | None) -> None:
        """Check that every register that a slot reads is bound on every path to it."""
        bound: dict[int, frozenset[int]] = {}

        def visit(node: Node | None, known: frozenset[int]) -> None:
            if node is None:
                return
            earlier = bound.get(node.index)
            now = known if earlier is None else earlier & known
            if now == earlier:
                return
            bound[node.index] = now
            if isinstance(node, Slot):
                missing = [self.names[i] for i in node.inputs if i not in now]
                if missing:
                    raise ValueError(f"{{{node.spec}}} is reached before {', '.join(missing)} is bound")
                now = now if node.bind is None else now | {node.bind}
            for following in followers(node):
                visit(following, now)

        visit(start, frozenset())


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    found = pattern.fullmatch(text)
    if found is None:
        raise ValueError(f"{{{text}}} is not of the form {{name.form*count:source}}")
    return found
