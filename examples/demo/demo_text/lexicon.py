"""Words that the message tasks say differently: everyday English, pirate, formal English, French.

French nouns carry their article and French places their preposition, because both depend on the
word. Every mood is an adjective whose French form is the same for men and women.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Styled(NamedTuple):
    """One meaning in the four styles."""

    casual: str
    pirate: str
    formal: str
    french: str


THINGS = (
    Styled("the map", "th' treasure map", "the map", "la carte"),
    Styled("the book", "th' log book", "the book", "le livre"),
    Styled("the money", "th' doubloons", "the funds", "l'argent"),
    Styled("the food", "th' grub", "the meal", "le repas"),
    Styled("the car", "th' ship", "the vehicle", "la voiture"),
    Styled("the boat", "th' rowboat", "the vessel", "le bateau"),
    Styled("the phone", "th' signal horn", "the telephone", "le téléphone"),
    Styled("the keys", "th' keys", "the keys", "les clés"),
    Styled("the flag", "th' Jolly Roger", "the flag", "le drapeau"),
    Styled("the bag", "th' sea bag", "the briefcase", "le sac"),
    Styled("the letter", "th' scroll", "the letter", "la lettre"),
    Styled("the clock", "th' hourglass", "the clock", "l'horloge"),
    Styled("the hat", "th' tricorn", "the hat", "le chapeau"),
    Styled("the knife", "th' cutlass", "the knife", "le couteau"),
    Styled("the lamp", "th' lantern", "the lamp", "la lampe"),
    Styled("the wine", "th' grog", "the wine", "le vin"),
    Styled("the dog", "th' sea dog", "the dog", "le chien"),
    Styled("the bird", "th' parrot", "the bird", "l'oiseau"),
    Styled("the box", "th' chest", "the parcel", "la boîte"),
    Styled("the chair", "th' barrel", "the chair", "la chaise"),
    Styled("the ladder", "th' riggin'", "the ladder", "l'échelle"),
    Styled("the tickets", "th' boardin' papers", "the tickets", "les billets"),
    Styled("the photos", "th' portraits", "the photographs", "les photos"),
    Styled("the camera", "th' spyglass", "the camera", "la caméra"),
    Styled("the umbrella", "th' spare sail", "the umbrella", "le parapluie"),
    Styled("the list", "th' crew list", "the list", "la liste"),
    Styled("the soup", "th' fish stew", "the soup", "la soupe"),
    Styled("the present", "th' booty", "the gift", "le cadeau"),
)

PLACES = (
    Styled("the market", "th' market", "the market", "au marché"),
    Styled("the beach", "th' shore", "the beach", "à la plage"),
    Styled("the station", "th' docks", "the station", "à la gare"),
    Styled("the office", "th' cap'n's cabin", "the office", "au bureau"),
    Styled("the school", "th' sailors' school", "the school", "à l'école"),
    Styled("the park", "th' island", "the park", "au parc"),
    Styled("the bank", "th' treasure cave", "the bank", "à la banque"),
    Styled("the hotel", "th' inn", "the hotel", "à l'hôtel"),
    Styled("the pub", "th' tavern", "the restaurant", "au bar"),
    Styled("the port", "th' harbour", "the port", "au port"),
    Styled("the church", "th' chapel", "the church", "à l'église"),
    Styled("the library", "th' chart room", "the library", "à la bibliothèque"),
    Styled("the hospital", "th' surgeon's den", "the hospital", "à l'hôpital"),
    Styled("the airport", "th' lighthouse", "the airport", "à l'aéroport"),
    Styled("the museum", "th' treasure hall", "the museum", "au musée"),
    Styled("the bakery", "th' galley", "the bakery", "à la boulangerie"),
)

PEOPLE = (
    Styled("my friend", "me matey", "my friend", "mon ami"),
    Styled("my brother", "me brother", "my brother", "mon frère"),
    Styled("my sister", "me sister", "my sister", "ma sœur"),
    Styled("my boss", "me cap'n", "my supervisor", "mon chef"),
    Styled("my mum", "me old mum", "my mother", "ma mère"),
    Styled("my dad", "me old man", "my father", "mon père"),
    Styled("my neighbour", "me deck mate", "my neighbour", "mon voisin"),
    Styled("my kid", "me cabin boy", "my child", "mon enfant"),
    Styled("my teacher", "me navigator", "my teacher", "mon professeur"),
    Styled("my cousin", "me cousin", "my cousin", "ma cousine"),
)

MOODS = (
    Styled("sick", "sick as a bilge rat", "unwell", "malade"),
    Styled("sad", "down in th' depths", "disheartened", "triste"),
    Styled("late", "behind th' tide", "delayed", "en retard"),
    Styled("angry", "mad as a shark", "displeased", "en colère"),
    Styled("rich", "rollin' in gold", "wealthy", "riche"),
    Styled("free", "free as th' wind", "available", "libre"),
    Styled("famous", "feared on all seas", "well known", "célèbre"),
    Styled("calm", "calm as a flat sea", "composed", "calme"),
    Styled("fit", "shipshape", "in good health", "en forme"),
)

GOODS = (
    Styled("apples", "apples", "apples", "pommes"),
    Styled("lemons", "lemons", "lemons", "citrons"),
    Styled("bottles", "bottles o' rum", "bottles", "bouteilles"),
    Styled("coins", "pieces o' eight", "coins", "pièces"),
    Styled("boxes", "sea chests", "parcels", "boîtes"),
    Styled("books", "log books", "books", "livres"),
    Styled("chairs", "barrels", "chairs", "chaises"),
    Styled("candles", "lanterns", "candles", "bougies"),
    Styled("tickets", "boardin' papers", "tickets", "billets"),
    Styled("cups", "tankards", "cups", "tasses"),
    Styled("ropes", "riggin' lines", "ropes", "cordes"),
    Styled("guests", "shipmates", "guests", "invités"),
)

DAYS = (
    Styled("Monday", "Monday", "Monday", "lundi"),
    Styled("Tuesday", "Tuesday", "Tuesday", "mardi"),
    Styled("Wednesday", "Wednesday", "Wednesday", "mercredi"),
    Styled("Thursday", "Thursday", "Thursday", "jeudi"),
    Styled("Friday", "Friday", "Friday", "vendredi"),
    Styled("Saturday", "Saturday", "Saturday", "samedi"),
    Styled("Sunday", "Sunday", "Sunday", "dimanche"),
)

CLOSED_SLOTS: dict[str, Sequence[Styled]] = {
    "thing": THINGS,
    "place": PLACES,
    "person": PEOPLE,
    "mood": MOODS,
    "goods": GOODS,
    "day": DAYS,
}
"""Slot name to everything that can fill it; open-class slots come from `words`."""
