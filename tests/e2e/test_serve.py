"""A server answers as OpenAI's does, with the tokens and log-probabilities that its model has alone."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from isoflop.core.rng import Rng
from isoflop.data.tokenizing import as_prompt
from isoflop.decode.decoders.sample import Sample
from isoflop.serve.separate import Separate
from isoflop.train.restore import Trained
from serving import Client, running, toy_model, toy_served

TEXT = "the cat é sat on 日"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return toy_model(tmp_path_factory.mktemp("serve") / "mine")


@pytest.fixture(scope="module")
def client(found: Trained) -> Iterator[Client]:
    with running(toy_served(found)) as client:
        yield client


def ids_of(found: Trained, text: str) -> list[int]:
    assert found.tokenizer is not None
    return [int(i) for i in found.tokenizer.encode(text)]


def alone(found: Trained, prompt: list[int], new: int, **how: Any) -> list[int]:
    assert found.tokenizer is not None
    decoder = Sample(**{"temperature": 0.0, **how}, stop=found.tokenizer.eot, ids=found.tokenizer.vocab_size)
    return decoder.generate(found.model, [prompt], new, Rng(how.pop("seed", 0)))[0]


def logprobs(found: Trained, ids: list[int]) -> list[float]:
    """Of each id but the first, from one forward pass."""
    assert found.tokenizer is not None
    with torch.no_grad():
        logits = found.model(torch.tensor([ids]))[0, :-1, : found.tokenizer.vocab_size].float()
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(ids)[1:, None])[:, 0].tolist()  # type: ignore[no-any-return]


def test_many_at_once_have_the_tokens_and_log_probabilities_of_each_alone(found: Trained, client: Client) -> None:
    prompts = [[(7 * i + 3 * j) % 300 for j in range(2 + 3 * i)] for i in range(12)]
    answers: list[dict[str, Any]] = [{}] * len(prompts)

    def ask(i: int) -> None:
        answers[i] = client.complete(prompts[i], max_tokens=9 + i, temperature=0, logprobs=1, echo=True)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.tokenizer is not None
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        new = alone(found, prompt, 9 + i)
        choice = answer["choices"][0]
        assert choice["text"] == found.tokenizer.decode([*prompt, *new])
        told = choice["logprobs"]["token_logprobs"]
        assert told[0] is None
        assert told[1:] == pytest.approx(logprobs(found, [*prompt, *new]), abs=1e-4)
        greedy = [max(top.values()) for top in choice["logprobs"]["top_logprobs"][len(prompt) :]]
        assert greedy == told[len(prompt) :]
        assert answer["usage"]["completion_tokens"] == len(new)


def test_text_begins_as_in_training_and_is_echoed_as_it_was(found: Trained, client: Client) -> None:
    assert found.tokenizer is not None
    choice = client.complete(TEXT, max_tokens=0, logprobs=3, echo=True)["choices"][0]
    assert choice["text"] == TEXT
    assert choice["finish_reason"] == "length"
    prompt = as_prompt(found.tokenizer, TEXT)
    plain = ids_of(found, TEXT)
    told = choice["logprobs"]
    assert [len(told[name]) for name in told] == [len(plain)] * 4
    assert told["token_logprobs"] == pytest.approx(logprobs(found, prompt), abs=1e-4)
    assert told["text_offset"] == sorted(told["text_offset"])
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert token.startswith("bytes:") or TEXT[offset:].startswith(token)
    assert all(len(top) in (3, 4) for top in told["top_logprobs"])


def test_a_seed_draws_what_generate_draws(found: Trained, client: Client) -> None:
    assert found.tokenizer is not None
    how = {"temperature": 0.9, "top_p": 0.8, "min_p": 0.01, "top_k": 50, "repetition_penalty": 1.1}
    asked = client.complete(["one", "two"], max_tokens=12, n=2, seed=7, ignore_eos=True, **how)
    prompts = [as_prompt(found.tokenizer, text) for text in ("one", "two")]
    drawn = Sample(**how, samples=2, ids=found.tokenizer.vocab_size).generate(found.model, prompts, 12, Rng(7))
    texts = [choice["text"] for choice in asked["choices"]]
    assert texts == [found.tokenizer.decode(ids) for ids in drawn]
    assert [choice["index"] for choice in asked["choices"]] == [0, 1, 2, 3]
    others = [client.text("one", max_tokens=12, temperature=5) for _ in range(3)]
    assert len(set(others)) > 1, "without a seed each request draws anew"


def test_a_stop_ends_the_text_and_its_log_probabilities(found: Trained, client: Client) -> None:
    whole = client.complete("stop", max_tokens=20, temperature=0, logprobs=0, ignore_eos=True)["choices"][0]
    stop = whole["text"][5:7]
    cut = client.complete("stop", max_tokens=20, temperature=0, logprobs=0, stop=stop, ignore_eos=True)["choices"][0]
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert cut["finish_reason"] == "stop"
    inside = [offset - len("stop") < len(cut["text"]) for offset in whole["logprobs"]["text_offset"]]
    assert len(cut["logprobs"]["tokens"]) == inside.index(False)


def test_biases_and_penalties_change_what_is_chosen_and_not_its_log_probability(client: Client) -> None:
    body = {"max_tokens": 6, "temperature": 0, "logprobs": 0, "ignore_eos": True}
    biased = client.complete("a", **body, logit_bias={"98": 100})["choices"][0]
    plain = client.complete("a", **body)["choices"][0]
    assert len(set(biased["logprobs"]["tokens"])) == 1
    assert biased["logprobs"]["token_logprobs"][0] < plain["logprobs"]["token_logprobs"][0]
    forced = {"98": 100, "99": 99.5}
    varied = client.complete("a", **body, logit_bias=forced, presence_penalty=2, frequency_penalty=1)["choices"][0]
    assert len(set(varied["logprobs"]["tokens"])) == 2


@pytest.mark.parametrize("logprobs", [None, 2])
@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_says_what_the_whole_answer_says(client: Client, logprobs: int | None, echo: bool) -> None:
    body = {"prompt": [TEXT, "b"], "max_tokens": 15, "temperature": 0, "echo": echo, "logprobs": logprobs,
            "ignore_eos": True, "stop": ["zq"]}  # fmt: skip
    whole = client.complete(body["prompt"], **{k: v for k, v in body.items() if k != "prompt"})
    *events, usage, done = client.stream("/v1/completions", {**body, "stream_options": {"include_usage": True}})
    assert done == "[DONE]"
    assert usage["usage"] == whole["usage"]
    assert usage["choices"] == []
    for choice in whole["choices"]:
        mine = [event["choices"][0] for event in events if event["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in mine) == choice["text"]
        assert [piece["finish_reason"] for piece in mine] == [None] * (len(mine) - 1) + ["length"]
        if logprobs is not None:
            for name, values in choice["logprobs"].items():
                assert [value for piece in mine for value in piece["logprobs"][name]] == values
    assert len({event["id"] for event in events}) == 1


def test_a_chat_goes_through_the_template(found: Trained, client: Client) -> None:
    assert found.tokenizer is not None
    messages = [{"role": "user", "content": [{"type": "text", "text": "hé"}, {"type": "text", "text": "!"}]}]
    body = {"model": "mine", "messages": messages, "max_completion_tokens": 8, "temperature": 0, "logprobs": True,
            "top_logprobs": 2}  # fmt: skip
    status, whole = client.ask("/v1/chat/completions", body)
    assert status == 200, whole
    prompt = found.tokenizer.chat_encoder().prompt([{"role": "user", "content": "hé!"}])  # type: ignore[attr-defined]
    new = alone(found, prompt, 8)
    choice = whole["choices"][0]
    assert choice["message"]["content"] == found.tokenizer.decode(new)
    told = choice["logprobs"]["content"]
    assert [each["logprob"] for each in told] == pytest.approx(
        logprobs(found, [*prompt, *new])[len(prompt) - 1 :], abs=1e-4
    )
    assert all(len(each["top_logprobs"]) == 2 for each in told)
    *events, done = client.stream("/v1/chat/completions", {k: v for k, v in body.items() if k != "model"})
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == choice["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert done == "[DONE]"


def test_models_health_and_metrics(client: Client) -> None:
    assert client.ask("/health") == (200, {"status": "ok"})
    _, models = client.ask("/v1/models")
    assert [each["id"] for each in models["data"]] == ["mine"]
    assert client.ask("/v1/models/mine")[1] == models["data"][0]
    before = figures(client)
    client.complete([[1, 2, 3], [4, 5]], max_tokens=4, ignore_eos=True)
    after = figures(client)
    gained = {name: after[name] - before.get(name, 0) for name in after}
    assert gained['isoflop_new_tokens_total{model="mine"}'] == 8
    assert gained['isoflop_prompt_tokens_total{model="mine"}'] == 5
    assert gained['isoflop_requests_total{path="/v1/completions",status="200"}'] == 1


def test_the_flops_that_are_told_are_those_of_the_model(found: Trained, client: Client) -> None:
    """Of each sequence: all but its last token are read, and only places from which tokens are drawn meet the head."""
    before = figures(client)['isoflop_model_flops_total{model="mine"}']
    client.complete([[1, 2, 3, 4, 5]], max_tokens=4, ignore_eos=True)
    gained = figures(client)['isoflop_model_flops_total{model="mine"}'] - before
    whole = found.model.flops(1, 8).forward.flops
    assert gained == whole - 4 * 2 * found.model.head.numel()


def figures(client: Client) -> dict[str, float]:
    text = client.ask("/metrics")[1]
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_log_probabilities_are_json_whatever_they_are(client: Client) -> None:
    raw = client.raw(
        "/v1/completions", {"model": "mine", "prompt": [1, 303, 2], "max_tokens": 1, "logprobs": 20, "echo": True}
    )
    json.loads(raw[1], parse_constant=lambda name: pytest.fail(name))
    assert math.isfinite(json.loads(raw[1])["choices"][0]["logprobs"]["token_logprobs"][1])


def test_a_model_that_cannot_batch_is_served_one_by_one(found: Trained, client: Client) -> None:
    """The scheduler is the same; each sequence has a cache of its own."""
    served = toy_served(found)
    served.engine._make = lambda: Separate(found.model)
    served.engine._batch = served.engine._make()
    body = {"prompt": [[1, 2, 3], [4], [5] * 30], "max_tokens": 9, "temperature": 0, "logprobs": 1, "echo": True}
    with running(served) as other:
        mine, theirs = client.complete(**body)["choices"], other.complete(**body)["choices"]
    assert [choice["text"] for choice in mine] == [choice["text"] for choice in theirs]
    for a, b in zip(mine, theirs, strict=True):
        assert a["logprobs"]["token_logprobs"][1:] == pytest.approx(b["logprobs"]["token_logprobs"][1:], abs=1e-4)
