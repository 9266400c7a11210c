"""What the base model knows about the world: small tables, told as text and as questions."""

from __future__ import annotations

from demo_text.words import Words

CAPITALS = {
    "France": ("Paris", "French", "Europe"),
    "Germany": ("Berlin", "German", "Europe"),
    "Italy": ("Rome", "Italian", "Europe"),
    "Spain": ("Madrid", "Spanish", "Europe"),
    "England": ("London", "English", "Europe"),
    "Ireland": ("Dublin", "Irish", "Europe"),
    "Austria": ("Vienna", "German", "Europe"),
    "Poland": ("Warsaw", "Polish", "Europe"),
    "Greece": ("Athens", "Greek", "Europe"),
    "Norway": ("Oslo", "Norwegian", "Europe"),
    "Sweden": ("Stockholm", "Swedish", "Europe"),
    "Finland": ("Helsinki", "Finnish", "Europe"),
    "Denmark": ("Copenhagen", "Danish", "Europe"),
    "Hungary": ("Budapest", "Hungarian", "Europe"),
    "Russia": ("Moscow", "Russian", "Europe"),
    "Turkey": ("Ankara", "Turkish", "Asia"),
    "Japan": ("Tokyo", "Japanese", "Asia"),
    "China": ("Beijing", "Chinese", "Asia"),
    "South Korea": ("Seoul", "Korean", "Asia"),
    "Thailand": ("Bangkok", "Thai", "Asia"),
    "Vietnam": ("Hanoi", "Vietnamese", "Asia"),
    "Iran": ("Tehran", "Persian", "Asia"),
    "Egypt": ("Cairo", "Arabic", "Africa"),
    "Tunisia": ("Tunis", "Arabic", "Africa"),
    "Kenya": ("Nairobi", "Swahili", "Africa"),
    "Canada": ("Ottawa", "English and French", "North America"),
    "Cuba": ("Havana", "Spanish", "North America"),
    "Peru": ("Lima", "Spanish", "South America"),
    "Colombia": ("Bogota", "Spanish", "South America"),
    "Ecuador": ("Quito", "Spanish", "South America"),
}
"""Country to its capital, language and continent."""

ANIMALS = {
    "cat": ("says meow", "lives in a house", "likes to sleep in the sun"),
    "dog": ("barks", "lives in a house", "likes to run after a ball"),
    "cow": ("says moo", "lives on a farm", "eats grass all day"),
    "horse": ("neighs", "lives on a farm", "runs very fast"),
    "duck": ("quacks", "lives on a pond", "swims with its young"),
    "owl": ("hoots", "lives in a tree", "hunts at night"),
    "lion": ("roars", "lives in the savanna", "sleeps for most of the day"),
    "wolf": ("howls", "lives in the forest", "hunts in a pack"),
    "frog": ("croaks", "lives by the water", "catches flies with its tongue"),
    "bee": ("buzzes", "lives in a hive", "makes honey"),
    "bear": ("growls", "lives in the forest", "sleeps through the winter"),
    "mouse": ("squeaks", "lives in a small hole", "likes to eat cheese"),
    "sheep": ("bleats", "lives on a farm", "gives us wool"),
    "parrot": ("talks", "lives in the jungle", "has bright feathers"),
}
"""Animal to its sound, its home and a habit."""

COLOURS = {
    "sky": "blue",
    "grass": "green",
    "snow": "white",
    "sun": "yellow",
    "night": "black",
    "blood": "red",
    "sea": "blue",
    "ash": "grey",
}

OPPOSITES = dict(
    pair.split("/")
    for pair in (
        "hot/cold big/small tall/short fast/slow old/young happy/sad light/dark open/closed "
        "wet/dry good/bad early/late rich/poor hard/soft full/empty day/night up/down left/right "
        "long/brief"
    ).split()
)

MONTHS = (
    "January February March April May June July August September October November December".split()
)
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

QuestionAnswer = tuple[str, str]


def country(words: Words) -> QuestionAnswer:
    """A question about a country."""
    name = words.rng.choice(list(CAPITALS))
    capital, language, continent = CAPITALS[name]
    return words.rng.choice(
        (
            (f"What is the capital of {name}?", f"The capital of {name} is {capital}."),
            (f"Which language is spoken in {name}?", f"People in {name} speak {language}."),
            (f"Where is {name}?", f"{name} is in {continent}."),
            (f"Which country is {capital} the capital of?", f"{capital} is the capital of {name}."),
            (f"Tell me about {name}.", country_text(name)),
        )
    )


def country_text(name: str) -> str:
    """A paragraph about one country."""
    capital, language, continent = CAPITALS[name]
    return (
        f"{name} is a country in {continent}. The capital of {name} is {capital}. "
        f"People in {name} speak {language}."
    )


def animal(words: Words) -> QuestionAnswer:
    """A question about an animal."""
    name = words.rng.choice(list(ANIMALS))
    sound, home, habit = ANIMALS[name]
    return words.rng.choice(
        (
            (f"What sound does a {name} make?", f"A {name} {sound}."),
            (f"Where does a {name} live?", f"A {name} {home}."),
            (f"Tell me about the {name}.", animal_text(name)),
            (f"What is a {name}?", f"A {name} is an animal that {home} and {habit}."),
        )
    )


def animal_text(name: str) -> str:
    """A paragraph about one animal."""
    sound, home, habit = ANIMALS[name]
    return f"The {name} is an animal. It {home}. It {habit}. A {name} {sound}."


def world(words: Words) -> QuestionAnswer:
    """A question about colours, opposites, days or months."""
    thing, colour = words.rng.choice(list(COLOURS.items()))
    word, opposite = words.rng.choice(list(OPPOSITES.items()))
    month, day = words.rng.randrange(11), words.rng.randrange(7)
    next_day = WEEKDAYS[(day + 1) % 7]
    return words.rng.choice(
        (
            (f"What colour is the {thing}?", f"The {thing} is {colour}."),
            (f"What is the opposite of {word}?", f"The opposite of {word} is {opposite}."),
            (f"What is the opposite of {opposite}?", f"The opposite of {opposite} is {word}."),
            (f"Which month comes after {MONTHS[month]}?", f"{MONTHS[month + 1]} comes next."),
            (f"Which day comes after {WEEKDAYS[day]}?", f"{next_day} comes after {WEEKDAYS[day]}."),
        )
    )


def arithmetic(words: Words) -> QuestionAnswer:
    """A sum or a comparison of small numbers."""
    a, b = words.rng.randint(1, 20), words.rng.randint(1, 20)
    c = b + words.rng.randint(1, 20)
    return words.rng.choice(
        (
            (f"What is {a} plus {b}?", f"{a} plus {b} is {a + b}."),
            (f"What is {c} minus {b}?", f"{c} minus {b} is {c - b}."),
            (f"Which is larger, {b} or {c}?", f"{c} is larger than {b}."),
            (f"Which is larger, {c} or {b}?", f"{c} is larger than {b}."),
        )
    )
