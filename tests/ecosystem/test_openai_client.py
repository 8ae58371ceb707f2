"""OpenAI's own client talks to the server as it talks to OpenAI."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoflop.serve.app import Limits
from serving import Client, running, toy_model, toy_served

openai = pytest.importorskip("openai")
KEY = "a key"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    served = toy_served(toy_model(tmp_path_factory.mktemp("serve") / "mine"))
    with running(served, limits=Limits(body=50_000), key=KEY) as client:
        yield client


@pytest.fixture(scope="module")
def client(server: Client) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_it_lists_the_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["mine"]
    assert client.models.retrieve("mine").owned_by == "isoflop"


def test_it_completes_prompts_of_text_and_of_ids(client: Any) -> None:
    how = {"model": "mine", "max_tokens": 6, "temperature": 0, "logprobs": 2, "extra_body": {"ignore_eos": True}}
    for prompt in ("hi", ["hi", "you"], [1, 2, 3], [[1, 2, 3], [4]]):
        found = client.completions.create(prompt=prompt, **how, echo=True)
        for choice in found.choices:
            assert choice.finish_reason == "length"
            assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs)
            assert len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)
        assert found.usage.total_tokens == found.usage.prompt_tokens + 6 * len(found.choices)
    whole = client.completions.create(prompt="hi", **how)
    pieces = list(client.completions.create(prompt="hi", **how, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == whole.choices[0].text
    assert pieces[-1].usage == whole.usage


def test_it_chats(client: Any) -> None:
    how = {
        "model": "mine",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hé"}],
        "max_completion_tokens": 8,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
        "seed": 3,
        "n": 2,
    }
    whole = client.chat.completions.create(**how)
    assert [choice.message.role for choice in whole.choices] == ["assistant"] * 2
    assert all(len(token.top_logprobs) == 3 for token in whole.choices[0].logprobs.content)
    texts = ["", ""]
    for piece in client.chat.completions.create(**how, stream=True):
        texts[piece.choices[0].index] += piece.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    with client.chat.completions.stream(**how) as stream, pytest.raises(openai.LengthFinishReasonError) as cut:
        stream.get_final_completion()  # which must not be cut
    assert cut.value.completion.choices[0].message.content == texts[0]


def test_it_knows_every_error(client: Any, server: Client) -> None:
    good = {"model": "mine", "prompt": "a"}
    for error, body in (
        (openai.NotFoundError, {**good, "model": "other"}),
        (openai.BadRequestError, {**good, "prompt": "long " * 200}),
        (openai.BadRequestError, {**good, "temperature": -1}),
        (openai.APIStatusError, {**good, "prompt": "x" * 60_000}),
    ):
        with pytest.raises(error) as raised:
            client.completions.create(**body)
        assert raised.value.body["message"]
        assert raised.value.body["type"] == "invalid_request_error"
    with (
        openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_many_of_them_at_once_leave_and_stay(client: Any, server: Client) -> None:
    """Every third one goes away in the middle of its stream."""

    async def ask(one: Any, i: int) -> str:
        how = {"model": "mine", "prompt": [i + 1, 7], "max_tokens": 40, "temperature": 0}
        text = ""
        async with await one.completions.create(**how, stream=True, extra_body={"ignore_eos": True}) as stream:
            async for piece in stream:
                text += piece.choices[0].text
                if i % 3 == 0 and text:
                    return ""
        return text

    async def all_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=KEY) as one:
            return await asyncio.gather(*(ask(one, i) for i in range(24)))

    for i, text in enumerate(asyncio.run(all_at_once())):
        if i % 3:
            how = {"max_tokens": 40, "temperature": 0, "extra_body": {"ignore_eos": True}}
            assert text == client.completions.create(model="mine", prompt=[i + 1, 7], **how).choices[0].text


def test_the_pages_example_works(server: Client) -> None:
    """But for the port, the key and the length of the text."""
    page = (Path(__file__).parents[2] / "docs" / "guide" / "serve.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    script = example.replace(":8000", f":{server.port}").replace('"none"', repr(KEY))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout
