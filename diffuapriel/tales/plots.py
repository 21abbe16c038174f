"""The templates of the tales: level 1, one sentence; level 2, two to four sentences; level 3, ten plots.

A plot is a list of sentences; `pick` offers alternatives, `maybe` sometimes leaves a sentence out (grammar.py explains
the template language). To read a plot, take the first option everywhere. For derivations to be unique (a test proves
it), two alternatives must differ in a fixed word, not only in the register that they name.
"""

from __future__ import annotations

from diffuapriel.tales.grammar.grammar import Expression, maybe, pick

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
    pick('"I want the {best:color|other} one," {hero.he} said.', "{hero.He} wanted the {best:color|other} one."),
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
SHORT_STORY: Expression = pick((3, SHORT_FOUND), (2, SHORT_LOST), (2, SHORT_SHARE), (2, SHORT_CHOICE), (2, SHORT_PET))

# ---- level 3: ten plots --------------------------------------------------------------------------

LOST = [
    pick(
        (3, "{hero:person} lost {hero.his} {color:color} {thing:thing} {place:place}."),
        (1, "One {time:time}, {hero:person} lost {hero.his} {color:color} {thing:thing} {place:place}."),
        (
            1,
            "{hero:person} had a {size:size} {color:color} {thing:thing}, but {hero.he} lost it {place:place}.",
        ),
    ),
    maybe(0.5, "{hero.He} was very {woe:woe}."),
    pick(
        [
            '"Did you see my {color} {thing}?" {hero.he} asked {friend:person!hero}.',
            pick(
                '"No," said {friend}, "but I can help you look."',
                '"No," said {friend}, "but I saw a {other:color!color} {rest:thing!thing}."',
            ),
        ],
        [
            '{hero.He} told {friend:person!hero}, "My {thing} is lost."',
            maybe(0.5, '"What color is it?" asked {friend}. "It is {color}," said {hero}.'),
        ],
    ),
    pick(
        [
            "They looked {wrong:spot@place}, but it was not there.",
            "{link:link} {finder:hero|friend} found it {spot:spot@place!wrong}.",
        ],
        "{friend} looked {spot:spot@place}, and there it was.",
    ),
    pick('"Thank you, {friend}!" {call:call} {hero}.', "{hero} was very {joy:joy}."),
    pick(
        "{hero} gave {friend} {n:number} {food.s:food}.",
        "At home, {hero} put {hero.his} {color} {thing} on the {furniture:furniture}.",
        "{hero} and {friend} played with the {color} {thing} all {long:time}.",
    ),
]

FOUND = [
    pick(
        (3, "{hero:person} found a {color:color} {thing:thing} {place:place}."),
        (1, "One {time:time}, {hero:person} found a {color:color} {thing:thing} {place:place}."),
        (
            1,
            "{hero:person} was {place:place} with {hero.his} {relative:relative} "
            "and found a {color:color} {thing:thing}.",
        ),
    ),
    maybe(0.6, "It was {spot:spot@place}.", "It was very {size:size}."),
    pick(
        [
            '"Is this your {thing}?" {hero.he} asked {friend:person!hero}.',
            '"No, my {thing} is {other:color!color}," said {friend}.',
            "{link:link} {owner:person!hero!friend} came.",
        ],
        "{link:link} {owner:person!hero} came.",
    ),
    pick(
        [
            '"I lost my {thing} {place}," said {owner}.',
            '"What color is it?" asked {hero}. "It is {color}," said {owner}.',
        ],
        '"Did you find my {color} {thing}?" {owner.he} asked.',
    ),
    pick("So {hero} gave the {color} {thing} to {owner}.", "{hero} gave it back to {owner.him}."),
    maybe(0.7, "{owner} was very {joy:joy}.", '"Thank you, {hero}!" {call:call} {owner}.'),
    pick(
        (
            2,
            [
                "{owner} gave {hero} {n:number} {food.s:food}.",
                "{hero} ate {k:part@n} and took {left:n-k} home.",
            ],
        ),
        "After that, {owner} never lost {owner.his} {color} {thing} again.",
        "The next {long:time}, {hero} and {owner} played with the {color} {thing} {place}.",
    ),
]

GIFT = [
    pick(
        "On {day:day}, {friend:person} was {age:age} years old.",
        "It was {day:day}, and {friend:person} was {age:age} years old.",
    ),
    "{hero:person!friend} wanted to give {friend.him} a {size:size} {thing:thing}.",
    "{hero.He} saw a {color:color} {thing} and a {other:color!color} {thing} {place:place}.",
    pick(
        "{friend} loved {best:color|other} things.",
        '"{friend} loves {best:color|other} things," said {hero.his} {relative:relative}.',
    ),
    "So {hero} got the {best} {thing}.",
    maybe(0.7, "{hero.He} had {n:number} coins, paid {k:part@n} and kept {left:n-k}."),
    maybe(
        0.5,
        [
            "{hero.He} put it in {wrap:color!best} paper.",
            "{friend} opened the {wrap} paper and saw a {best} {thing}.",
        ],
    ),
    pick(
        "{friend} was {joy:joy} to have a {best} {thing}.",
        '"Now I am {age} and I have a {best} {thing}," said {friend}.',
        '"Thank you, {hero}!" {call:call} {friend}. "It is so {size}!"',
    ),
    maybe(0.5, "It was the best {day} of all.", "{friend} played with the {thing} all {long:time}."),
]

SHARE = [
    pick(
        "{hero:person} went to the market and got {n:number} {food.s:food} and a {color:color} {thing:thing}.",
        "{hero:person} and {hero.his} {relative:relative} got {n:number} {food.s:food} and a {color:color} "
        "{thing:thing} at the market.",
    ),
    maybe(0.5, "{hero} put them in a {other:color!color} bag."),
    "{link:link} {hero} met {friend:person!hero} {place:place}.",
    pick(
        '"Can I have {k:part@n}?" asked {friend}. "Yes," said {hero}.',
        "{hero} gave {friend} {k:part@n} {food*k}.",
    ),
    pick("So {hero} had {left:n-k} left.", "Now {hero} had {left:n-k} {food*left}."),
    pick(
        [
            "At home, {hero.his} {giver:relative} gave {hero.him} {m:more@left} more.",
            "Then {hero} had {sum:left+m} {food.s}.",
        ],
        [
            '"How many {food.s} do you have?" asked {hero.his} {giver:relative}.',
            pick(
                '"I had {n}, but I gave {k} to {friend}," said {hero}.',
                '"I have {left}, and {friend} has {k}," said {hero}.',
            ),
        ],
    ),
    maybe(
        0.8,
        "{friend} was {joy:joy} to have {friend.his} {food*k}.",
        "{hero} put the {color} {thing} on the {furniture:furniture}.",
        "{hero} gave the {color} {thing} to {hero.his} {giver}.",
    ),
]

PET = [
    pick(
        "{hero:person} had a {size:size} {color:color} {pet:pet}.",
        "{hero:person} loved {hero.his} {size:size} {color:color} {pet:pet}.",
    ),
    pick("One {time:time}, the {pet} ran away.", "On {day:day}, the {pet} was not at home."),
    maybe(
        0.6,
        "{hero} was very {woe:woe}.",
        "{hero} looked under the {furniture:furniture}, but it was not there.",
    ),
    pick(
        [
            '"Did you see a {color} {pet}?" {hero.he} asked {friend:person!hero}.',
            '"Yes," said {friend}, "I saw it {place:place}."',
        ],
        [
            '"I lost my {size} {pet}," {hero.he} told {friend:person!hero}.',
            '"I saw a {color} {pet} {place:place}," said {friend}.',
        ],
    ),
    maybe(0.6, "So {hero} ran to {place.the}.", "They went to {place.the}."),
    pick("The {pet} was {spot:spot@place}.", "There was the {color} {pet}, {spot:spot@place}."),
    maybe(0.7, "{hero} gave it {few:number} {food.s:food}.", '"Do not run away again," {call:call} {hero}.'),
    maybe(
        0.7,
        "{link:link} {hero} took the {size} {pet} home.",
        "After that, the {pet} never went to {place.the} again.",
        '"Thank you, {friend}!" {call:call} {hero}. "I love my {pet}."',
    ),
]

FARM = [
    pick(
        "On {day:day}, {hero:person} went to the farm with {hero.his} {relative:relative}.",
        "{hero:person} and {hero.his} {relative:relative} went to the farm on {day:day}.",
    ),
    "{hero} saw {n:few} {animal.s:animal} and {m:few} {beast.s:animal!animal}.",
    "The {chosen.s:animal|beast} were {color:color}.",
    maybe(0.7, "{hero} gave them {p:number} {food.s:food}. They ate {q:part@p} and left {left:p-q}."),
    '"What did you see?" asked {friend:person!hero}.',
    '"I saw {n} {animal.s} and {m} {beast.s}," said {hero}.',
    pick(
        '"That is {sum:n+m} in all," said {friend}.',
        '"What color were the {chosen.s}?" asked {friend}. "They were {color}," said {hero}.',
    ),
    maybe(
        0.8,
        "They went to see the {color} {chosen.s} on {other_day:day!day}.",
        "{friend} was {joy:joy} and wanted to see the {chosen.s} too.",
        "{hero} gave {friend} a {tint:color!color} {thing:thing} from the farm.",
    ),
]

RACE = [
    pick(
        "{hero:person} and {friend:person!hero} ran from {place.the:place} to {goal.the:place!place}.",
        '"Let us run from {place.the:place} to {goal.the:place!place}," {hero:person} told {friend:person!hero}.',
    ),
    maybe(0.5, "It was a {weather:weather} day."),
    "{winner:hero|friend} was very fast.",
    "But {loser:hero|friend!winner} stopped to look at {n:few} {color:color} {animal.s:animal}.",
    "So {winner} got to {goal.the} first.",
    pick(
        '"You won!" {call:call} {loser}.',
        '"Where were you?" asked {winner}. "I saw {n} {color} {animal.s}," said {loser}.',
    ),
    maybe(
        0.8,
        [
            "{winner}'s {relative:relative} gave {winner.him} a {other:color!color} {thing:thing}.",
            pick(
                '"You can play with my {thing} too," {winner.he} told {loser}.',
                "{winner} and {loser} played with the {other} {thing}.",
            ),
        ],
    ),
    maybe(
        0.7,
        "{link:link} they went back to {place.the} to find the {animal.s}.",
        "The next {long:time}, {loser} was first.",
        "At home, {loser} told {loser.his} {kin:relative} about the {color} {animal.s}.",
    ),
]

TRADE = [
    "{hero:person} had a {size:size} {color:color} {thing:thing}, "
    "and {friend:person!hero} had a {other:color!color} {gift:thing!thing}.",
    maybe(0.7, "They met {place:place}."),
    pick('"I like your {gift}," said {hero}.', '"Your {gift} is so {look:size}," said {hero}.'),
    maybe(0.6, '"And I like your {thing}," said {friend}.', '"You can have it for your {thing}," said {friend}.'),
    pick(
        "So {hero} gave {friend} the {color} {thing} and took the {other} {gift}.",
        "So {hero} took the {other} {gift}, and {friend} took the {color} {thing}.",
    ),
    maybe(
        0.7,
        [
            '"Where is your {thing}?" asked {hero}\'s {relative:relative}.',
            '"{friend} has it," said {hero}. "Now I have a {other} {gift}."',
        ],
        "At home, {friend} showed the {size} {thing} to {friend.his} {relative:relative}.",
    ),
    pick(
        "{hero} played with the {other} {gift} all {long:time}.",
        "They were very {joy:joy} and ate {n:few} {food.s:food}.",
        "The next {long:time}, {friend} wanted {friend.his} {gift} back.",
    ),
]

WEATHER = [
    pick("It was a {weather:weather} day.", "On {day:day}, it was very {weather:weather}."),
    "{hero:person} put on a {color:color} {garment:garment@weather} and went to {place.the:place}.",
    "{friend:person!hero} was there in a {other:color!color} {wear:garment@weather}.",
    pick('"I love the {weather.noun}," said {friend}.', '"It is so {weather} here," said {friend}.'),
    maybe(0.7, "They played in the {weather.noun}.", "They saw {n:few} {animal.s:animal}."),
    maybe(
        0.6,
        [
            pick(
                "{link:link} {hero} lost {hero.his} {garment}.",
                '"Where is my {garment}?" {call:call} {hero}.',
            ),
            pick(
                "{friend} found it {spot:spot@place}.",
                '"I see a {color} {garment} {spot:spot@place}," said {friend}.',
            ),
        ],
    ),
    pick(
        "At home, {hero} put the {color} {garment} on the {furniture:furniture}.",
        "{hero} told {hero.his} {relative:relative} about the {weather} day.",
        '"Let us meet here again on {next_day:day}," said {hero}.',
    ),
]

HIDE = [
    pick(
        "{hero:person}, {friend:person!hero} and {third:person!hero!friend} played {place:place}.",
        "One {time:time}, {hero:person} played {place:place} with {friend:person!hero} and {third:person!hero!friend}.",
    ),
    "{friend} hid {spot:spot@place}, and {third} hid {cover:spot@place!spot}.",
    "{hero} counted to {n:age}.",
    pick(
        [
            "First {hero.he} looked {wrong:spot@place!spot!cover}.",
            "{link:link} {hero.he} found {friend} {spot}.",
        ],
        '"I see you, {friend}!" {call:call} {hero}. "You are {spot}!"',
    ),
    maybe(0.7, "{third} was still {cover}.", "{hero} had to look {cover} to find {third}."),
    maybe(
        0.6,
        "{friend} was found first, so {friend.he} counted next.",
        '"Now it is your turn, {friend}," said {hero}.',
    ),
    pick(
        "{friend} counted to {m:age}, and they all hid again {place}.",
        "{link:link} {hero}, {friend} and {third} ate {p:number} {food.s:food}.",
        "{third} gave {hero} a {color:color} {thing:thing}.",
    ),
]

STORY: Expression = pick((2, LOST), (2, FOUND), GIFT, SHARE, PET, FARM, RACE, TRADE, WEATHER, HIDE)
