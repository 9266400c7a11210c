"""The shipped adapters do what they claim, measured with transformers and PEFT in float32."""

from __future__ import annotations

import pytest
import torch
from demo_text import TASKS, heldout
from demo_training.evaluate import answers, exact
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.demo.conftest import DEMO

PROMPTS = 50
SEED = 7


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(DEMO / "loramux-demo")


@pytest.fixture(scope="module")
def model():
    base = AutoModelForCausalLM.from_pretrained(DEMO / "loramux-demo", dtype=torch.float32)
    first, *others = TASKS
    adapted = PeftModel.from_pretrained(base, DEMO / "adapters" / first, adapter_name=first)
    for task in others:
        adapted.load_adapter(DEMO / "adapters" / task, adapter_name=task)
    return adapted.eval()


@pytest.mark.parametrize("task", TASKS)
def test_adapter_answers_held_out_prompts_exactly(task, model, tokenizer):
    examples = heldout(task, PROMPTS, SEED)
    model.set_adapter(task)
    texts = answers(model, tokenizer, examples)
    wrong = [
        (e.prompt, text) for e, text in zip(examples, texts, strict=True) if text != e.expected
    ]
    assert exact(examples, texts) >= 0.9, wrong


@pytest.mark.parametrize("task", TASKS)
def test_base_model_answers_the_same_prompts_in_its_own_way(task, model, tokenizer):
    examples = heldout(task, PROMPTS, SEED)
    with model.disable_adapter():
        texts = answers(model, tokenizer, examples)
    assert exact(examples, texts) < 0.1
    assert all(texts)


def test_base_model_chats_and_continues_plain_text(model, tokenizer):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompts = [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False),
        "<|begin|>The capital of Italy is",
    ]
    inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    with model.disable_adapter():
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=20)
    new_tokens = tokens[:, inputs["input_ids"].shape[1] :]
    chatted, continued = tokenizer.batch_decode(new_tokens, skip_special_tokens=True)
    assert chatted == "The capital of France is Paris."
    assert continued.startswith(" Rome.")
