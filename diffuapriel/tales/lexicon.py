"""The words of the tales: about 300, nearly all of one or two gpt2-4k tokens.

Kinds say how words agree (their forms), classes say what can be drawn where; see grammar.py. No word that follows "a"
begins with a vowel, so the article never depends on the next word.
"""

from __future__ import annotations

from diffuapriel.tales.grammar.grammar import Kind, Lexicon, Value, WordClass

GIRLS = (
    *("Mia", "Anna", "Kate", "Emma", "Sara", "Jane", "Lily", "Grace"),
    *("Rose", "Amy", "Mary", "Sue", "Kim", "Nina", "Zoe", "Ruth"),
    *("Maria", "Clara", "Sally", "Ada"),
)
BOYS = (
    *("Tom", "Sam", "Ben", "Jack", "Max", "Tim", "Dan", "Paul"),
    *("David", "John", "Peter", "Adam", "Nick", "James", "Leo", "Fred"),
    *("Mark", "Bill", "Mike", "Carl"),
)
PEOPLE = tuple(name for pair in zip(GIRLS, BOYS, strict=True) for name in pair)
RELATIVES = ("mother", "father", "sister", "brother", "aunt", "uncle")

COLORS = (
    *("red", "blue", "green", "black", "white", "brown"),
    *("pink", "gold", "gray", "purple", "silver", "yellow"),
)
SIZES = ("big", "small", "nice", "new", "little", "pretty", "fine", "special")
THINGS = (
    *("ball", "book", "box", "key", "doll", "car", "hat", "cup", "kite", "bag"),
    *("drum", "bell", "boat", "train", "robot", "ring", "flag", "lamp", "pen", "map"),
    *("card", "phone", "camera", "clock", "mug", "picture", "rope", "watch"),
)
PETS = ("dog", "cat", "bird", "duck", "goat", "pony", "fox", "mouse")
ANIMALS = ("dog", "cat", "cow", "duck", "pig", "goat", "horse", "bird", "hen", "frog", "bear", "bee")
FOODS = ("apple", "egg", "cake", "nut", "plum", "bun", "pear", "fig", "lemon", "cookie", "pie", "bean")
FURNITURE = ("table", "bed", "chair", "floor", "shelf", "bench")
JOYS = ("happy", "glad", "proud", "excited", "surprised")
WOES = ("sad", "angry", "upset", "cross", "sorry", "unhappy")
CALLS = ("said", "called", "cried")
LINKS = ("Then", "Soon", "Later")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TIMES = ("day", "morning", "night", "summer", "winter", "spring")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

# spots: places for a small thing to lie or a child to hide
INDOORS = ("behind the door", "under the table", "on a chair", "by the wall", "in a box", "near the window")
PARK = ("under a tree", "under a bench", "by the gate", "in the grass", "behind a rock", "by the wall")
SHORE = ("near the water", "behind a rock", "in the sand", "under a boat", "on the bridge", "in the grass")
YARD = ("by the gate", "behind the door", "by the wall", "under a tree", "in a box", "under a bench")
WILD = ("under a tree", "behind a rock", "in the grass", "near the water", "on the bridge", "by the road")

# place: (being there, going there, spots there)
PLACES = {
    "park": ("in the park", "the park", PARK),
    "school": ("at school", "the school", INDOORS),
    "lake": ("by the lake", "the lake", SHORE),
    "market": ("at the market", "the market", YARD),
    "garden": ("in the garden", "the garden", PARK),
    "farm": ("on the farm", "the farm", YARD),
    "beach": ("on the beach", "the beach", SHORE),
    "river": ("by the river", "the river", SHORE),
    "hill": ("on the hill", "the hill", WILD),
    "mill": ("by the old mill", "the old mill", WILD),
    "zoo": ("at the zoo", "the zoo", PARK),
    "yard": ("in the yard", "the yard", YARD),
    "forest": ("in the forest", "the forest", WILD),
    "station": ("at the station", "the station", INDOORS),
    "pond": ("by the pond", "the pond", SHORE),
    "house": ("in the old house", "the old house", INDOORS),
}

# weather: (clothes for it, what to play in)
WEATHER = {
    "cold": (("coat", "hat", "scarf"), "snow"),
    "hot": (("cap", "shirt", "dress"), "sun"),
    "windy": (("coat", "cap", "scarf"), "wind"),
    "wet": (("coat", "hat", "cap"), "rain"),
}


def _same(words: tuple[str, ...]) -> Kind:
    return Kind({"": {word: word for word in words}})


def _counted(words: tuple[str, ...]) -> Kind:
    return Kind({"": {word: word for word in words}, "s": {word: word + "s" for word in words}})


def _people() -> Kind:
    """Names and their pronouns; permissive parsing also accepts "they" for each pronoun."""

    def forms(she: str, he: str) -> dict[Value, str]:
        return {name: she if name in GIRLS else he for name in PEOPLE}

    return Kind(
        {
            "": {name: name for name in PEOPLE},
            "he": forms("she", "he"),
            "He": forms("She", "He"),
            "his": forms("her", "his"),
            "him": forms("her", "him"),
        },
        stray={"he": ["they"], "He": ["They"], "his": ["their"], "him": ["them"]},
    )


def make_lexicon() -> Lexicon:
    """The lexicon of the tales at all levels."""
    words = {  # a class and a kind of the same name, with one form
        "relative": RELATIVES,
        "color": COLORS,
        "size": SIZES,
        "thing": THINGS,
        "pet": PETS,
        "furniture": FURNITURE,
        "joy": JOYS,
        "woe": WOES,
        "call": CALLS,
        "link": LINKS,
        "day": DAYS,
        "time": TIMES,
    }
    spots = {place: hidden for place, (_, _, hidden) in PLACES.items()}
    wear = {weather: garments for weather, (garments, _) in WEATHER.items()}
    kinds = {name: _same(values) for name, values in words.items()} | {
        "person": _people(),
        "animal": _counted(ANIMALS),
        "food": _counted(FOODS),
        "place": Kind(
            {
                "": {place: where for place, (where, _, _) in PLACES.items()},
                "the": {place: goal for place, (_, goal, _) in PLACES.items()},
            }
        ),
        "spot": _same(tuple(dict.fromkeys(spot for hidden in spots.values() for spot in hidden))),
        "weather": Kind(
            {
                "": {weather: weather for weather in WEATHER},
                "noun": {weather: noun for weather, (_, noun) in WEATHER.items()},
            }
        ),
        "garment": _same(tuple(dict.fromkeys(garment for garments in wear.values() for garment in garments))),
        "number": Kind({"": dict(enumerate(NUMBERS, start=1))}),
    }
    classes = {name: WordClass(name, tuple(kind.forms[""])) for name, kind in kinds.items()} | {
        "spot": WordClass("spot", given=spots),
        "garment": WordClass("garment", given=wear),
        "number": WordClass("number", tuple(range(2, 10))),  # counts at the beginning
        "age": WordClass("number", tuple(range(4, 11))),
        "few": WordClass("number", (2, 3, 4, 5)),
        # some of n, not all
        "part": WordClass("number", given={n: tuple(range(1, n)) for n in range(2, 11)}),
        "more": WordClass("number", given={n: tuple(range(1, min(5, 11 - n))) for n in range(1, 10)}),
    }
    return Lexicon(kinds, classes)
