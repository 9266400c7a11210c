"""Plain text without a chat: little stories, letters, lists and paragraphs of facts."""

from __future__ import annotations

from demo_text.facts import ANIMALS, CAPITALS, MONTHS, WEEKDAYS, animal_text, country_text
from demo_text.words import Words

HEROES = "king queen farmer sailor baker painter girl boy giant dragon fox rabbit".split()
TREASURES = (
    "golden ring|silver key|old map|red apple|magic lamp|tiny book|blue stone|warm coat".split("|")
)
SITES = "in the forest|by the river|on the hill|under the bridge|in the garden|near the sea".split(
    "|"
)
ENDINGS = (
    "They lived happily ever after.",
    "From that day on they were best friends.",
    "Everyone in the village was happy.",
    "And that is the end of the story.",
)

SKIES = "sunny cloudy rainy foggy stormy cold warm".split()
WINDS = "weak strong cold mild".split()


def story(words: Words) -> str:
    """A story of five sentences whose hero and treasure stay the same throughout."""
    hero, treasure = words.rng.choice(HEROES), words.rng.choice(TREASURES)
    site, name, friend = words.rng.choice(SITES), words.first_name(), words.first_name()
    return (
        f"Once upon a time there was a {hero} called {name}. One day {name} found a {treasure} "
        f'{site}. "This {treasure} must belong to someone," said {name}. So {name} went to see '
        f"{friend}, and {friend} was glad to have the {treasure} back. {words.rng.choice(ENDINGS)}"
    )


def diary(words: Words) -> str:
    """A day in somebody's life."""
    name, city, day = words.first_name(), words.city(), words.rng.choice(WEEKDAYS)
    animal, treasure = words.rng.choice(list(ANIMALS)), words.rng.choice(TREASURES)
    return (
        f"It was a {day} in {words.rng.choice(MONTHS)}. {name} took the train to {city} at "
        f"{words.time()}. In {city} {name} bought a {treasure} for {words.number(2, 99)} euros "
        f"and saw a {animal}. In the evening {name} was tired but happy."
    )


def biography(words: Words) -> str:
    """A few facts about an invented person."""
    name, city = words.full_name(), words.city()
    first = name.split()[0]
    return (
        f"{name} was born in {city} in {words.number(1900, 2010)}. {first} is a "
        f"{words.rng.choice(HEROES[2:6])} and has {words.number(2, 30)} cousins. "
        f"People in {city} know {name} well, and {first} knows them."
    )


def facts(words: Words) -> str:
    """A paragraph from an encyclopedia for children."""
    if words.rng.random() < 0.5:
        return country_text(words.rng.choice(list(CAPITALS)))
    return animal_text(words.rng.choice(list(ANIMALS)))


def weather(words: Words) -> str:
    """A weather report."""
    sky, wind = words.rng.choice(SKIES), words.rng.choice(WINDS)
    return (
        f"The weather today is {sky} in {words.city()}. The wind is {wind}, and it is "
        f"{words.number(2, 35)} degrees. Tomorrow will be {words.rng.choice(SKIES)}."
    )


def counting(words: Words) -> str:
    """A stretch of numbers, days or months in their order."""
    start, length = words.rng.randint(1, 80), words.rng.randint(5, 15)
    return words.rng.choice(
        (
            ", ".join(str(number) for number in range(start, start + length)) + ".",
            ", ".join(WEEKDAYS) + ".",
            ", ".join(MONTHS) + ".",
        )
    )
