"""Targets, ranks and scalings are PEFT's, and patterns cannot stop the process."""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists
from peft.utils.other import get_pattern_key

from loramux.errors import AdapterRefusedError
from loramux.lora.checkpoint.name_pattern import LiteralKey, MatchBudget, NamePattern, PatternTable
from loramux.lora.checkpoint.peft_config import parse_config
from loramux.lora.checkpoint.targets import resolve_targets
from loramux.lora.site import LoRASite, SiteKind

LEAVES = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.experts.0.up_proj")
LAYERS = [f"model.layers.{i}.{leaf}" for i in (0, 1, 10) for leaf in LEAVES]
ENDS = ["lm_head", "q_proj", "encoder.h.1.fc.2.x"]
SITES = {name: LoRASite(name, SiteKind.LINEAR, 4, 4, name == "lm_head") for name in LAYERS + ENDS}
SITES["embed"] = LoRASite("embed", SiteKind.EMBEDDING, 4, 4)

NAMES = ["q_proj", "up_proj", "o_proj", "self_attn.q_proj", "layers.1.mlp.up_proj", "proj", "x", ""]
NAMES += ["lm_head", "embed", "0.up_proj", LAYERS[0], "model.layers.10.self_attn.q_proj"]
REGEXES = [
    ".*_proj",
    ".*(q|up)_proj$",
    r"model\.layers\.[01]\..*proj",
    "^(?!.*experts).*up_proj",
    r".*\.1\..*",
    "lm_head|embed",
    "(?i).*Q_PROJ",
    r".*\d{1,2}.mlp.up_proj",
    ".*?h.*x",
    r"\bmodel\.layers\.[\d]{1,}\.(?:self_attn)\.(?:(?:q_proj|o_proj))",
]
KEYS = ["^q_proj", "^model.layers.1", "up_proj|x", "model.layers.0.self.attn.q.proj", "[01].*"]


def targets_of(**fields):
    text = json.dumps({"peft_type": "LORA", **fields}).encode()
    return resolve_targets(parse_config(text), SITES)


def expected(**fields) -> dict[str, tuple[int, float]]:
    config = LoraConfig(**fields)
    for key in [*config.rank_pattern, *config.alpha_pattern]:
        re.compile(rf"(.*\.)?({key})$")  # PEFT tries every key, to warn of those without a match
    found = {}
    for name in SITES:
        match = check_target_module_exists(config, name)
        if match and not isinstance(match, _ExcludedModule):
            rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r)
            key = get_pattern_key(config.alpha_pattern, name)
            alpha = config.alpha_pattern.get(key, config.lora_alpha)
            found[name] = (rank, alpha / (math.sqrt(rank) if config.use_rslora else rank))
    return found


def is_container(name: str) -> bool:
    return any(site.startswith(f"{name}.") for site in SITES)


def container_is_targeted(**fields) -> bool:
    config = LoraConfig(**fields)
    parts = {site.rsplit(".", n)[0] for site in SITES for n in range(1, 8)}
    return any(check_target_module_exists(config, name) for name in parts if is_container(name))


name_lists = st.lists(st.sampled_from(NAMES), max_size=4)
pattern_keys = st.sampled_from([*NAMES, *REGEXES, *KEYS])
narrowing = st.fixed_dictionaries(
    {},
    optional={
        "layers_to_transform": st.integers(-1, 11) | st.lists(st.integers(0, 10), max_size=3),
        "layers_pattern": st.sampled_from(
            ["layers", "h", ["h", "layers"], "experts", "", [], "l.*s"]
        ),
    },
)
common = st.fixed_dictionaries(
    {"r": st.integers(1, 64), "lora_alpha": st.integers(1, 64) | st.floats(0.5, 64)},
    optional={
        "exclude_modules": name_lists | st.sampled_from(REGEXES),
        "use_rslora": st.booleans(),
        "rank_pattern": st.dictionaries(pattern_keys, st.integers(1, 64), max_size=4),
        "alpha_pattern": st.dictionaries(pattern_keys, st.floats(0.5, 64), max_size=4),
    },
)
by_list = st.builds(
    lambda names, a, b: {"target_modules": names, **a, **b}, name_lists, common, narrowing
)
by_regex = st.builds(
    lambda regex, a: {"target_modules": regex, **a}, st.sampled_from(REGEXES), common
)


@settings(max_examples=250, deadline=None)
@given(by_list | by_regex)
def test_targets_ranks_and_scalings_are_pefts(fields):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wanted = expected(**fields)
            refused = not wanted or container_is_targeted(**fields)
        except (ValueError, re.error):
            refused = True
    if refused:
        with pytest.raises(AdapterRefusedError):
            targets_of(**fields)
        return
    found = targets_of(**fields)
    assert {name: (t.rank, t.scaling) for name, t in found.items()} == wanted


@pytest.mark.parametrize("word", ["all-linear", "All-Linear"])
def test_all_linear_leaves_out_embeddings_and_the_output(word):
    assert set(targets_of(target_modules=word)) == set(SITES) - {"embed", "lm_head"}


def test_all_linear_respects_exclude_modules():
    found = targets_of(target_modules="all-linear", exclude_modules=["up_proj"])
    assert found
    assert not any(name.endswith("up_proj") for name in found)


@pytest.mark.parametrize("targets", [[], ["no_such"], "no_such", ["model.layers.0"]])
def test_nothing_to_adapt_is_refused(targets):
    with pytest.raises(AdapterRefusedError, match="'target_modules'"):
        targets_of(target_modules=targets)


def test_container_is_refused_by_name():
    with pytest.raises(AdapterRefusedError, match=r"'model\.layers\.0\.mlp'"):
        targets_of(target_modules=["q_proj", "mlp"])


@pytest.mark.parametrize("name", ["embed", "lm_head"])
def test_tied_adapters_are_refused_only_where_tying_acts(name):
    with pytest.raises(AdapterRefusedError, match=f"'ensure_weight_tying' is true and '{name}'"):
        targets_of(target_modules=["q_proj", name], ensure_weight_tying=True)
    assert targets_of(target_modules=["q_proj"], ensure_weight_tying=True)


HOSTILE = [
    r"(?:(?:(?:.*).*)*.*)*(?:(?:(?:.*).*)*.*)*(?:[xyz]|!)\b\B",
    r"(?:(?=(.*))\1|.*)*(?:.*.*.*.*.*.*.*.*.*.*.*.*)*[xyz]\B",
    "(.*)" * 60 + "[xyz]",
    "(((a{100}){100}){100}){100}",
    "a{99999999999999999999}",
    "(" * 2000 + ")" * 2000,
    "(?:" * 1000 + "a" + ")*" * 1000,
    "a" * 5000,
    "(",
    "[",
    "q_proj{e<=2}",
    "[[:alpha:]]_proj",
    r"\p{L}+",
    "(?<name>a)",
    "(?R)",
    "a)|(b",
    "(?i)" + "[!-\uffff]" * 800,
    "(?i:[!-\\uffff])" * 240,
    "(?\ud800)[\n-\t]",
]


@pytest.mark.parametrize("pattern", HOSTILE)
@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "rank_pattern"])
def test_hostile_patterns_end_soon_in_a_refusal_or_a_result(field, pattern):
    value = {pattern: 4} if field == "rank_pattern" else pattern
    start = time.thread_time()  # of the processor, which others may want as well
    with suppress(AdapterRefusedError):
        targets_of(**{"target_modules": ["q_proj"], field: value})
    assert time.thread_time() - start < 5


def test_matching_stops_at_the_deadline(monkeypatch):
    monkeypatch.setattr("loramux.lora.checkpoint.targets.MATCH_SECONDS", 0.2)
    start = time.thread_time()
    with pytest.raises(AdapterRefusedError, match="takes too long to match"):
        targets_of(target_modules=r"(.+?)*.*()+\d+")
    assert time.thread_time() - start < 5


def test_hostile_layers_pattern_is_refused():
    for pattern in ("(", "(?P<idx>a)", "(a{100}){100}"):
        with pytest.raises(AdapterRefusedError, match="'layers_pattern'"):
            targets_of(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern=[pattern])


def test_many_patterns_share_one_budget(monkeypatch):
    monkeypatch.setattr("loramux.lora.checkpoint.targets.MATCH_SECONDS", 0.1)
    many = [f"{number}+" for number in range(50_000)]
    start = time.thread_time()
    with pytest.raises(AdapterRefusedError, match=r"'layers_pattern' .* takes too long to match"):
        targets_of(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern=many)
    assert time.thread_time() - start < 2  # all of them take five times as long


@pytest.mark.parametrize("pattern", ["(?P<a>\n[\n-\t]\r)", "(q_proj(?" * 400])
def test_a_refused_pattern_is_quoted_in_one_line_of_text(pattern):
    with pytest.raises(AdapterRefusedError, match="does not compile") as refusal:
        targets_of(target_modules=pattern)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 500


def test_spent_budget_refuses_the_pattern_in_words():
    with pytest.raises(AdapterRefusedError, match=r"'\.\*', which takes too long to match"):
        NamePattern("target_modules", ".*", MatchBudget(-1))


def test_too_many_patterns_are_refused():
    with pytest.raises(AdapterRefusedError, match="'rank_pattern' has more than 4096 entries"):
        PatternTable("rank_pattern", {f"k{i}": 1 for i in range(4097)}, MatchBudget(1))


WIDE_NAMES = st.text("ab.^-_0", min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(WIDE_NAMES, st.text("ab._-0", max_size=12))
def test_literal_keys_match_as_the_regex_peft_builds(key, name):
    key = key[0] + key[1:].replace("^", "")
    wanted = re.match(rf"(.*\.)?({key})$", name) is not None
    if key != "^":
        assert LiteralKey(key).matches(name) is wanted


PIECES = [
    "a",
    "b",
    ".",
    r"\.",
    "*",
    "+",
    "?",
    "*?",
    "++",
    "^",
    "$",
    "|",
    "_",
    "-",
    "&&",
    r"\1",
    "#",
]
PIECES += ["(", "(?:", "(?=", "(?!", "(?>", "(?<=a)", "(?<!b)", "(?i)", ")", r"\b", r"\w", r"\d"]
PIECES += ["[ab]", "[^a]", "[a-", "[[a]", "]", "{2}", "{1,}", "{,2}", "{,}", "{", "}", "{e}", " "]


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join), st.text("abA._0 ", max_size=6))
def test_accepted_patterns_match_as_in_re(pattern, name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = NamePattern("target_modules", pattern, MatchBudget(1)).fullmatch(name)
        except AdapterRefusedError:
            return
        assert found is (re.fullmatch(pattern, name) is not None)
