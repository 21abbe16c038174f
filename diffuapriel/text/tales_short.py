"""Tales of level 1, one sentence, and level 2, two to four sentences (the templates: see grammar.py)."""

from __future__ import annotations

from diffuapriel.text.grammar import Expression, maybe, pick

# ---- level 1: one sentence -----------------------------------------------------------------------

SENTENCE: Expression = pick(
    (3, "{hero:person} found a {color:color} {thing:thing} {place:place}."),
    (2, "{hero:person} lost {hero.his} {color:color} {thing:thing} {place:place}."),
    (2, "{hero:person} gave {hero.his} {color:color} {thing:thing} to {friend:person!hero}."),
    (2, "{hero:person} took {hero.his} {relative:relative} to {place.the:place}."),
    (2, "{hero:person} had {n:number} {food.s:food}, ate {k:part@n} and kept {left:n-k}."),
)

# ---- level 2: two to four sentences --------------------------------------------------------------

SHORT_FOUND = [
    "{hero:person} found a {color:color} {thing:thing} {place:place}.",
    pick(
        [
            '"Is this your {thing}?" {hero.he} asked {friend:person!hero}.',
            pick(
                '"Yes, I lost my {color} {thing}," said {friend}.',
                '"No, my {thing} is {other:color!color}," said {friend}.',
            ),
        ],
        ["It was {friend:person!hero}'s {thing}.", "So {hero.he} gave it back to {friend.him}."],
        [
            "{hero.He} showed the {color} {thing} to {hero.his} {relative:relative}.",
            "Then {hero.he} took it home.",
        ],
    ),
]
SHORT_LOST = [
    "{hero:person} lost {hero.his} {color:color} {thing:thing} {place:place}.",
    maybe(0.4, "{hero.He} was very {woe:woe}."),
    "{friend:person!hero} found it {spot:spot@place}.",
    pick(
        '"Thank you, {friend}!" {call:call} {hero}.',
        "{hero} was {joy:joy} to have {hero.his} {color} {thing} back.",
    ),
]
SHORT_SHARE = [
    "{hero:person} had {n:number} {food.s:food}.",
    pick(
        "{hero.He} gave {k:part@n} to {friend:person!hero}.",
        '"Can I have {k:part@n}?" asked {friend:person!hero}. "Yes," said {hero}.',
    ),
    pick("So {hero} had {left:n-k} left.", "Now {hero} had {left:n-k} {food*left}."),
]
SHORT_CHOICE = [
    "{hero:person} saw a {color:color} {thing:thing} and a {other:color!color} {thing} {place:place}.",
    pick(
        '"I want the {best:color|other} one," {hero.he} said.', "{hero.He} wanted the {best:color|other} one."
    ),
    pick(
        "So {hero.his} {relative:relative} got {hero.him} the {best} {thing}.",
        "{friend:person!hero} gave {hero.him} the {best} {thing}.",
    ),
]
SHORT_PET = [
    "{hero:person} took {hero.his} {color:color} {pet:pet} to {place.the:place}.",
    "The {pet} ran away.",
    pick(
        "{hero} found it {spot:spot@place}.",
        '"I see a {color} {pet} {spot:spot@place}," said {friend:person!hero}.',
    ),
    maybe(0.5, "{link:link} {hero} and {hero.his} {pet} went home."),
]
SHORT_STORY: Expression = pick(
    (3, SHORT_FOUND), (2, SHORT_LOST), (2, SHORT_SHARE), (2, SHORT_CHOICE), (2, SHORT_PET)
)
