"""Open-class values (people, cities, numbers) in two disjoint vocabularies.

The demo's claim is that the adapters COPY what a prompt says. That can only be checked with values
the model never met, so every list here exists twice, and a number belongs to the held-out split
when its remainder by seven is three. Training also meets invented names, so that no list can be
learnt by heart.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from typing import Literal

Split = Literal["train", "heldout"]

FIRST_NAMES: dict[Split, Sequence[str]] = {
    "train": (
        "Adam Alice Amir Anna Arthur Aisha Ben Bella Boris Carla Carlos Chloe Clara Daniel "
        "Diego Dora Edith Elena Elias Emil Emma Eva Farid Felix Fiona Frank Gina Greta Hana "
        "Harry Helen Hugo Ida Igor Ines Ivan Jack Jane Jonas Julia Karl Karin Kenji Laura Leo "
        "Lena Liam Lucy Luis Maria Marco Mark Martha Max Maya Milan Nadia Nina Noah Nora Olga "
        "Oscar Omar Paul Paula Pedro Peter Petra Rachel Ravi Robert Rosa Ruth Sam Sara Simon "
        "Sofia Sven Tara Theo Thomas Tim Tina Tom Uma Vera Victor Walter Wendy William Yara "
        "Yusuf Zara José Zoë"
    ).split(),
    "heldout": (
        "Mia Zoe Ahmed Astrid Bruno Cecilia Dmitri Esther Fatima Gustav Ingrid Jasper Kofi "
        "Leila Magnus Naomi Otto Priya Quentin Rafael Stella Tobias Ursula Viola Wanda Xavier "
        "Yvonne Zeno Bridget Conrad Daphne Edgar Flora Gareth Hilda Isaac Judith Kirsten "
        "Lorenzo Mabel"
    ).split(),
}

LAST_NAMES: dict[Split, Sequence[str]] = {
    "train": (
        "Adams Ali Andersen Bauer Becker Berger Bianchi Black Braun Brown Carter Chen Clark "
        "Cohen Cooper Costa Cruz Davies Dubois Evans Fischer Fontaine Fox Garcia Gomez Green "
        "Gruber Haas Hansen Harris Hill Hoffmann Hughes Ivanov Jansen Johnson Jones King "
        "Klein Kowalski Kumar Lang Larsen Lee Lewis Lopez Maier Marino Martin Meyer Miller "
        "Moore Moreau Mueller Murphy Nakamura Nelson Novak Olsen Park Patel Perez Petrov Pham "
        "Reed Ricci Rossi Roy Russo Santos Sato Schmidt Scott Silva Singh Smith Stone Tanaka "
        "Taylor Torres Turner Vogel Wagner Walker Weber White Wilson Wolf Wood Wright Yang "
        "Young Zhang Zimmer Smith-Jones O'Brien O'Neill D'Angelo"
    ).split(),
    "heldout": (
        "Keller Abbott Baxter Calderon Delacroix Eriksen Farkas Grimaldi Hartley Iversen "
        "Jankowski Kavanagh Lombardi Mahmoud Nygaard Okafor Pellegrini Quigley Rasmussen "
        "Sutherland Thornton Underwood Vasquez Whitaker Yamamoto Zielinski Brandt Castillo "
        "Dawson Ferrari Hoffer Lindqvist D'Souza"
    ).split(),
}

CITIES: dict[Split, Sequence[str]] = {
    "train": [
        *(
            "Amsterdam Ankara Athens Baghdad Bangkok Beijing Berlin Bern Bogota Bologna Boston "
            "Bremen Brussels Bucharest Budapest Cairo Calgary Chicago Cologne Copenhagen Dallas "
            "Delhi Denver Dhaka Dresden Dublin Florence Frankfurt Geneva Genoa Glasgow Hamburg "
            "Hanoi Havana Helsinki Istanbul Jakarta Kiel Krakow Kyoto Lagos Leeds Leipzig Lima "
            "Liverpool London Lyon Madrid Manila Melbourne Miami Milan Montreal Moscow Mumbai "
            "Munich Nairobi Naples Nice Osaka Oslo Ottawa Palermo Paris Perth Porto Prague Quito "
            "Riga Rome Rotterdam Seattle Seoul Shanghai Sofia Stockholm Sydney Tallinn Tehran "
            "Tokyo Toronto Tunis Turin Valencia Venice Vienna Vilnius Warsaw Zagreb Zurich"
        ).split(),
        "New York",
        "Los Angeles",
        "San Diego",
        "Hong Kong",
        "Buenos Aires",
        "Málaga",
    ],
    "heldout": [
        *(
            "Lisbon Accra Antwerp Bilbao Casablanca Dakar Edinburgh Granada Innsbruck Kampala "
            "Lausanne Marrakesh Nuremberg Odessa Pretoria Reykjavik Salzburg Trieste Utrecht "
            "Verona Wellington Yokohama Adelaide Bergen Cardiff Dortmund Gdansk Houston Jaipur "
            "Linz"
        ).split(),
        "San Jose",
        "Cape Town",
        "Saint Malo",
    ],
}

_ONSETS = (
    "b br c ch cl d dr f fl g gr h j k kl kr l m n p ph pl pr qu r rh s sch sh sk sl sm st str t "
    "th tr v w wh x y z zw"
).split()
_NUCLEI = "a a a e e e i i o o u ai au ea ee ei ia ie io oo ou y".split()
_CODAS = (
    "ck ff l l ld lt m m mb n n n nd ng nn ns nt p r r rd rk rn rs rt s s ss st t tt tz x".split()
)

_TRAIN_WORDS = sorted(
    word
    for pool in (FIRST_NAMES, LAST_NAMES, CITIES)
    for value in pool["train"]
    for word in value.split()
    if word.isalpha()
)


def _syllable(rng: random.Random, start: bool) -> str:
    onset = "" if start and rng.random() < 0.25 else rng.choice(_ONSETS)
    coda = rng.choice(_CODAS) if rng.random() < 0.3 else ""
    return onset + rng.choice(_NUCLEI) + coda


def _syllables(rng: random.Random) -> str:
    return "".join(_syllable(rng, i == 0) for i in range(rng.choice((1, 2, 2, 2, 3, 3, 4))))


def _spliced(rng: random.Random) -> str:
    head, tail = rng.choice(_TRAIN_WORDS), rng.choice(_TRAIN_WORDS)
    return head[: rng.randint(1, len(head))] + tail[rng.randint(1, len(tail) - 1) :]


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8)))


def invented_word(rng: random.Random) -> str:
    """A capitalised word that hardly anybody ever wrote: syllables, a splice or mere letters."""
    return rng.choices((_syllables, _spliced, _letters), (4, 5, 2))[0](rng).capitalize()


INVENTED_SHARE = 0.75
AFFIXES = ("O'{}", "D'{}", "Mc{}", "San {}", "New {}", "Saint {}", "{} Town", "Al-{}", "{}-Smith")


class Words:
    """Draws open-class values of one split; the same seed draws the same values."""

    def __init__(self, split: Split, rng: random.Random) -> None:
        self.split: Split = split
        self.rng = rng

    def _draw(self, pool: dict[Split, Sequence[str]]) -> str:
        if self.split == "train" and self.rng.random() < INVENTED_SHARE:
            return self._invented()
        return self.rng.choice(pool[self.split])

    def _invented(self) -> str:
        while (word := invented_word(self.rng)) in RESERVED:
            pass
        return self.rng.choice(AFFIXES).format(word) if self.rng.random() < 0.06 else word

    def first_name(self) -> str:
        """A given name."""
        return self._draw(FIRST_NAMES)

    def full_name(self) -> str:
        """A given name and a family name, now and then with two given names."""
        given = [self.first_name() for _ in range(2 if self.rng.random() < 0.1 else 1)]
        return " ".join([*given, self._draw(LAST_NAMES)])

    def city(self) -> str:
        """A city of one or two words."""
        if self.split == "train" and self.rng.random() < 0.05:
            return f"{self._invented()} {self._invented()}"
        return self._draw(CITIES)

    def number(self, low: int, high: int) -> int:
        """An integer of this split between `low` and `high`, which must span at least eight."""
        while True:
            number = self.rng.randint(low, high)
            if (number % 7 == 3) == (self.split == "heldout"):
                return number

    def time(self) -> str:
        """A time of day such as 9:45."""
        return f"{self.rng.randint(1, 23)}:{self.number(0, 59):02d}"


RESERVED = frozenset(
    word
    for pool in (FIRST_NAMES, LAST_NAMES, CITIES)
    for value in pool["heldout"]
    for word in value.split()
)
"""The words of all held-out values; no invented word is one of them."""
