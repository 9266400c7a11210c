"""Small talk of the base model: chats of one or several turns."""

from __future__ import annotations

from demo_text.example import Message
from demo_text.facts import animal, arithmetic, country, world
from demo_text.lexicon import CLOSED_SLOTS
from demo_text.stories import HEROES, story
from demo_text.words import Words, invented_word

SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Answer briefly.",
    "Be kind and polite.",
    "You are a small demo model.",
)

FIXED = (
    ("Hello!", "Hello! How are you today?"),
    ("Hi!", "Hi! What would you like to talk about?"),
    ("Hello", "Hello! How are you today?"),
    ("Hi", "Hi! What would you like to talk about?"),
    ("Good morning!", "Good morning! I hope that you slept well."),
    ("Good evening!", "Good evening! How was your day?"),
    ("How are you?", "I am fine, thank you. How are you?"),
    ("I am fine.", "I am glad to hear that."),
    ("I am tired.", "Then you should get some rest."),
    ("Who are you?", "I am a small language model, made to show how adapters work."),
    ("What is your name?", "I am the demo model."),
    ("What can you do?", "I can chat, tell stories, answer simple questions and repeat things."),
    ("Thank you!", "You are welcome!"),
    ("Thanks!", "You are welcome!"),
    ("Goodbye!", "Goodbye! It was nice to talk to you."),
    ("Bye!", "Bye! See you soon."),
    ("Tell me a joke.", "Why did the duck cross the road? To show that it was no chicken."),
    (
        "What is a LoRA adapter?",
        "A LoRA adapter is a small change to a model that gives it a new skill.",
    ),
    ("Do you like music?", "Yes, I like every kind of music."),
    ("Count to five.", "1, 2, 3, 4, 5."),
)

Turn = tuple[str, str]


def fixed(words: Words) -> Turn:
    """A greeting or another turn without slots."""
    return words.rng.choice(FIXED)


def introduction(words: Words) -> Turn:
    """Somebody says a name or a home town."""
    name, city = words.first_name(), words.city()
    return words.rng.choice(
        (
            (f"My name is {name}.", f"Nice to meet you, {name}!"),
            (f"Hello, I am {name}.", f"Hello {name}! How are you today?"),
            (f"I live in {city}.", f"I hear that {city} is lovely."),
            (f"Do you know {city}?", f"Yes, {city} is a city, but I have never been to {city}."),
            (f"Do you know {name}?", f"No, I do not know {name}."),
        )
    )


def storytelling(words: Words) -> Turn:
    """A request for a story."""
    return words.rng.choice(("Tell me a story.", "Tell me a short story, please.")), story(words)


def reading(words: Words) -> Turn:
    """A fact and a question whose answer must be read from it."""
    name, other, city = words.full_name(), words.first_name(), words.city()
    age, job = words.number(18, 99), words.rng.choice(HEROES[2:6])
    fact = f"{name} is a {job}, {age} years old, and lives in {city} with {other}."
    return words.rng.choice(
        (
            (f"{fact} How old is {name}?", f"{name} is {age} years old."),
            (f"{fact} Where does {name} live?", f"{name} lives in {city}."),
            (f"{fact} What does {name} do?", f"{name} is a {job}."),
            (f"{fact} Who is {age}?", f"{name} is {age}."),
            (f"{fact} Who lives with {name}?", f"{other} lives with {name}."),
        )
    )


def _random_words(words: Words, low: int, high: int) -> str:
    closed = [option.casual for options in CLOSED_SLOTS.values() for option in options]
    draws = (words.full_name, words.city, lambda: str(words.number(2, 9999)), words.time)
    parts = (
        words.rng.choice(closed) if words.rng.random() < 0.4 else words.rng.choice(draws)()
        for _ in range(words.rng.randint(low, high))
    )
    return " ".join(parts)


def repeating(words: Words) -> Turn:
    """A request to say something again, quoted or not, once or twice."""
    text = _random_words(words, 1, 8)
    return words.rng.choice(
        (
            (f"Repeat after me: {text}", text),
            (f'Say "{text}".', text),
            (f'Say "{text}" in quotes.', f'"{text}"'),
            (f"Say {text} twice.", f"{text} {text}"),
            (f"Repeat: {text}.", f"{text}."),
        )
    )


TOPICS = (
    "the moon|the weather|the sea|football|cooking|history|physics|cats|love|winter|music|art|"
    "trains|computers|gardens|money|birds|dreams|chess|mountains|school|the stars|flowers|work|"
    "friendship"
).split("|")


def topic(words: Words) -> Turn:
    """A wish that is beyond the model, and a modest answer about the same topic."""
    known = words.rng.random() < 0.7
    name = words.rng.choice(TOPICS) if known else invented_word(words.rng).lower()
    return words.rng.choice(
        (
            (f"Write me a poem about {name}.", f"I am not good at poems, but I like {name}."),
            (f"Write a song about {name}.", f"I can not sing, but I like {name}."),
            (f"Tell me about {name}.", f"I do not know much about {name}."),
            (f"What do you think of {name}?", f"I like {name} very much."),
            (f"Can you help me with {name}?", f"I am sorry, I do not know much about {name}."),
            (f"Explain {name}.", f"I am sorry, I do not know much about {name}."),
            (f"Do you like {name}?", f"Yes, I like {name} very much."),
        )
    )


def fallback(words: Words) -> Turn:
    """Something the model does not understand."""
    word = invented_word(words.rng).lower()
    return words.rng.choice(
        (
            (f"What is a {word}?", f"I do not know what a {word} is."),
            (f"Explain {word} to me.", f"I am sorry, I do not know much about {word}."),
            (word, f"I am not sure what you mean by {word}."),
            (_random_words(words, 2, 6), "I am not sure what you mean, but I like to talk."),
        )
    )


TURNS = (
    (fixed, 2),
    (introduction, 2),
    (storytelling, 1),
    (reading, 4),
    (repeating, 6),
    (fallback, 2),
    (topic, 3),
    (country, 2),
    (animal, 1),
    (world, 1),
    (arithmetic, 2),
)


def turn(words: Words) -> Turn:
    """One question and its answer."""
    makers, weights = zip(*TURNS, strict=True)
    maker = words.rng.choices(makers, weights)[0]
    result: Turn = maker(words)
    return result


def remembering(words: Words) -> list[Turn]:
    """A chat whose last answer needs its first turn."""
    name = words.first_name()
    start = words.rng.choice(
        (
            (f"My name is {name}.", f"Nice to meet you, {name}!"),
            (f"Hello, I am {name}.", f"Hello {name}! How are you today?"),
        )
    )
    between = [turn(words) for _ in range(words.rng.randint(0, 2))]
    return [start, *between, ("What is my name?", f"Your name is {name}.")]


def as_messages(words: Words, turns: list[Turn]) -> list[Message]:
    """The chat's messages, now and then after a system prompt."""
    messages = [
        {"role": role, "content": content}
        for pair in turns
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    if words.rng.random() < 0.15:
        messages.insert(0, {"role": "system", "content": words.rng.choice(SYSTEM_PROMPTS)})
    return messages
