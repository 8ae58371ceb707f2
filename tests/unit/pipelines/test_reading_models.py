"""Models that read and write documents: vectors are the mean of states, rewriting follows its draw and its server."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.core.errors import DataError, UsageError
from isoflop.data.engine.endpoint import EndpointRephraser
from isoflop.data.tokenizing import begun
from isoflop.pipelines.rephrasers import ModelRephraser
from isoflop.pipelines.scorer_models import ReadingModel
from isoflop.serve.room import Room
from isoflop.train.restore import Trained
from serving import running, toy_model, toy_served

TEXTS = ["A river.", "Boats of the town lie there " * 20, "", "ü"]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return toy_model(tmp_path_factory.mktemp("toy"))


def test_a_vector_is_the_mean_of_the_states(found: Trained) -> None:
    """Of every window's tokens, the end aside; alone or beside others; and the head is not paid for."""
    reader = ReadingModel(found, "toy", "toy", {"flops": 0})
    reader.length = 64
    vectors = reader.vectors(TEXTS)
    assert found.tokenizer is not None
    assert not vectors[TEXTS.index("")].any()
    for text, vector in zip(TEXTS, vectors, strict=True):
        if not text:
            continue
        ids = begun(found.tokenizer, np.asarray(found.tokenizer.encode(text), np.int64))
        ids = ids if len(ids) and ids[0] == found.tokenizer.eot else np.append(found.tokenizer.eot, ids)
        with torch.no_grad():
            states = [found.model.hidden(torch.tensor(ids[None, at : at + 64]))[0] for at in range(0, len(ids), 64)]
        mean = torch.cat(states).double().mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    alone = np.concatenate([reader.vectors([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, vectors, atol=1e-5)
    assert reader.vectors([]).shape == (0, vectors.shape[1])
    both = [ReadingModel(found, "toy", "toy", {"flops": 0}) for _ in range(2)]
    both[0].vectors(["A river."])
    both[1].losses(["A river."])
    tokens = len(found.tokenizer.encode("A river.")) + 1
    assert both[1].cost.flops - both[0].cost.flops == 2 * tokens * found.model.head.numel()


def test_a_model_writes_the_same_for_the_same_draw(found: Trained) -> None:
    pieces = [("A river.", "easy"), ("Boats.", "qa")]
    one = ModelRephraser(found, "toy", {"flops": 0}, temperature=1.0, tokens=8)
    two = ModelRephraser(found, "toy", {"flops": 0}, temperature=1.0, tokens=8)
    assert one.rewrite(pieces, "0:0") == two.rewrite(pieces, "0:0") != two.rewrite(pieces, "0:1")
    assert one.cost.flops > 0
    assert ModelRephraser(found, "toy", {}, temperature=0.5).identity != one.identity


def test_a_server_of_ours_writes(found: Trained) -> None:
    with running(toy_served(found, Room(rows=4, context=512, tokens=4 * 512, waiting=50))) as client:
        url = f"http://127.0.0.1:{client.port}/v1"
        live = EndpointRephraser(url, "mine", tokens=6, temperature=1.0, pause=0.01)
        said = live.rewrite([("A.", "easy")] * 3, "0:0")
        assert len(said) == 3
        assert said == live.rewrite([("A.", "easy")] * 3, "0:0")
        with pytest.raises(DataError, match="answers 404"):
            EndpointRephraser(url, "theirs", tokens=6, pause=0.01).rewrite([("A.", "easy")], "0:0")
    with pytest.raises(DataError, match="does not answer"):
        EndpointRephraser(url, "mine", tries=2, pause=0.01).rewrite([("A.", "easy")], "0:0")
    with pytest.raises(UsageError, match="is no address"):
        EndpointRephraser("localhost:80", "mine")


class Moody(BaseHTTPRequestHandler):
    """Refuses the first two questions, tears the third connection, answers the fourth, and then in no known form."""

    asked = 0

    def do_POST(self) -> None:
        Moody.asked += 1
        self.rfile.read(int(self.headers["content-length"]))
        if Moody.asked == 3:
            return
        body = b'{"choices": [{"message": {"content": "said"}}]}' if Moody.asked == 4 else b'{"error": 1}'
        self.send_response(503 if Moody.asked < 3 else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_what_may_pass_is_asked_again(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Moody)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        live = EndpointRephraser(f"http://127.0.0.1:{server.server_port}/v1", "m", pause=0.001)
        assert live.rewrite([("A.", "easy")], "0:0") == ["said"]
        assert Moody.asked == 4
        with pytest.raises(DataError, match="in no form of OpenAI's"):
            live.rewrite([("A.", "easy")], "0:0")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
