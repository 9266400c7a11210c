"""The sentences of the message tasks: each in four styles, with the base model's small talk."""

from __future__ import annotations

from typing import NamedTuple

from demo_text.lexicon import Styled


class Clause(NamedTuple):
    """What a message says, with slots in braces, and what one may chat back."""

    style: Styled
    small_talk: str


GREETINGS = (
    Styled("Hey {name}, ", "Ahoy {name}, ", "Dear {name}, ", "Salut {name}, "),
    Styled("Hi {name}, ", "Avast {name}, ", "Dear {name}, ", "Bonjour {name}, "),
    Styled("Yo {name}, ", "Oi {name}, ye scallywag, ", "Dear {name}, ", "Coucou {name}, "),
)
NO_GREETING = Styled("", "Arr, ", "", "")

CLOSINGS = (
    Styled(" Thanks!", " Much obliged, matey!", " Thank you very much.", " Merci !"),
    Styled(" See you!", " Fair winds to ye!", " I look forward to seeing you.", " À bientôt !"),
    Styled(" Bye!", " Sail safe!", " Kind regards.", " Au revoir !"),
    Styled("", "", "", ""),
)


def _clause(casual: str, pirate: str, formal: str, french: str, small_talk: str) -> Clause:
    return Clause(Styled(casual, pirate, formal, french), small_talk)


CLAUSES = (
    _clause(
        "can you bring {thing} to {place} on {day}?",
        "can ye haul {thing} to {place} on {day}?",
        "could you please bring {thing} to {place} on {day}?",
        "peux-tu apporter {thing} {place} {day} ?",
        "I can not carry {thing}, but {day} sounds good.",
    ),
    _clause(
        "I can't find {thing}.",
        "I can't be findin' {thing}.",
        "I am unable to locate {thing}.",
        "je ne trouve pas {thing}.",
        "Where did you last see {thing}?",
    ),
    _clause(
        "I need {number} {goods} by {day}.",
        "I be needin' {number} {goods} by {day}.",
        "I require {number} {goods} by {day}.",
        "j'ai besoin de {number} {goods} pour {day}.",
        "What do you need so many {goods} for?",
    ),
    _clause(
        "{person} is {mood} today.",
        "{person} be {mood} this day.",
        "I must inform you that {person} is {mood} today.",
        "{person} est {mood} aujourd'hui.",
        "Thank you for telling me, I will keep it in mind.",
    ),
    _clause(
        "let's meet at {place} at {time}.",
        "let us drop anchor at {place} at {time}.",
        "I suggest that we meet at {place} at {time}.",
        "retrouvons-nous {place} à {time}.",
        "I would love to see {place} one day.",
    ),
    _clause(
        "I got {number} {goods} for {other}.",
        "I plundered {number} {goods} for {other}.",
        "I have obtained {number} {goods} for {other}.",
        "j'ai trouvé {number} {goods} pour {other}.",
        "I am sure that {other} likes {goods}.",
    ),
    _clause(
        "{other} wants to buy {thing}.",
        "{other} be wantin' to plunder {thing}.",
        "{other} wishes to purchase {thing}.",
        "{other} veut acheter {thing}.",
        "I hope that {other} has enough money.",
    ),
    _clause(
        "did you see {other} at {place}?",
        "did ye spy {other} at {place}?",
        "may I ask whether you saw {other} at {place}?",
        "as-tu vu {other} {place} ?",
        "No, I have not seen {other}.",
    ),
    _clause(
        "I'm at {place} with {other}.",
        "I be at {place} with {other}.",
        "I am currently at {place} with {other}.",
        "je suis {place} avec {other}.",
        "Have fun with {other}.",
    ),
    _clause(
        "you can have {thing} for {number} euros.",
        "ye can have {thing} for {number} gold coins.",
        "I can offer you {thing} for {number} euros.",
        "tu peux avoir {thing} pour {number} euros.",
        "I have no money, so I can not buy {thing}.",
    ),
    _clause(
        "we're leaving for {city} at {time}.",
        "we set sail for {city} at {time}.",
        "we will depart for {city} at {time}.",
        "nous partons pour {city} à {time}.",
        "I wish you a good trip to {city}.",
    ),
    _clause(
        "{person} lives in {city}.",
        "{person} be livin' in {city}.",
        "{person} resides in {city}.",
        "{person} habite à {city}.",
        "I hear that {city} is lovely.",
    ),
    _clause(
        "don't forget {thing}.",
        "don't ye be forgettin' {thing}.",
        "please do not forget {thing}.",
        "n'oublie pas {thing}.",
        "I will not forget {thing}.",
    ),
    _clause(
        "call me on {number} before {day}.",
        "send a gull to {number} before {day}.",
        "please telephone me on {number} before {day}.",
        "appelle-moi au {number} avant {day}.",
        "I can not call anyone, I only like to talk.",
    ),
    _clause(
        "I'm {mood} because {person} lost {thing}.",
        "I be {mood} for {person} lost {thing}.",
        "I am {mood} because {person} has mislaid {thing}.",
        "je suis {mood} parce que {person} a perdu {thing}.",
        "I am sure that {thing} will turn up.",
    ),
    _clause(
        "{other} owes me {number} euros.",
        "{other} be owin' me {number} gold coins.",
        "{other} is indebted to me for {number} euros.",
        "{other} me doit {number} euros.",
        "That is a lot of money for {other}.",
    ),
    _clause(
        "give {thing} to {other} on {day}.",
        "hand {thing} to {other} on {day}.",
        "kindly pass {thing} to {other} on {day}.",
        "donne {thing} à {other} {day}.",
        "I do not have {thing} here.",
    ),
    _clause(
        "the party is at {place} on {day}.",
        "th' feast be at {place} on {day}.",
        "the celebration will take place at {place} on {day}.",
        "la fête est {place} {day}.",
        "I love parties, {day} sounds good.",
    ),
    _clause(
        "I'm going to {city} with {person}.",
        "I be sailin' to {city} with {person}.",
        "I will be travelling to {city} with {person}.",
        "je vais à {city} avec {person}.",
        "I wish you a good trip to {city}.",
    ),
    _clause(
        "who took {thing}?",
        "what scurvy dog took {thing}?",
        "would you know who has taken {thing}?",
        "qui a pris {thing} ?",
        "I do not know who took {thing}.",
    ),
    _clause(
        "wait for {other} at {place} until {time}.",
        "bide for {other} at {place} until {time}.",
        "please wait for {other} at {place} until {time}.",
        "attends {other} {place} jusqu'à {time}.",
        "I will wait for {other}.",
    ),
    _clause(
        "I paid {number} euros for {thing}.",
        "I handed over {number} gold coins for {thing}.",
        "I paid the sum of {number} euros for {thing}.",
        "j'ai payé {number} euros pour {thing}.",
        "I hope that you like {thing}.",
    ),
    _clause(
        "{other} is selling {number} {goods}.",
        "{other} be hawkin' {number} {goods}.",
        "{other} is offering {number} {goods} for sale.",
        "{other} vend {number} {goods}.",
        "I do not need {goods}, but thank you.",
    ),
    _clause(
        "tell {other} that {person} is {mood}.",
        "tell {other} that {person} be {mood}.",
        "kindly inform {other} that {person} is {mood}.",
        "dis à {other} que {person} est {mood}.",
        "I will tell {other} when we meet.",
    ),
)
