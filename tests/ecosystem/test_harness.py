"""lm-evaluation-harness gives the same numbers for a run through our class, through its own class for Hugging Face
models on the exported directory, and through `isoflop serve`; and those of the reference."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, processors
from torch import Tensor, nn

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.errors import UsageError
from isoflop.evals.harness_tasks import read_task
from isoflop.models.hf.directory import Published
from isoflop.store.harness import HARNESS, HarnessResult, stored
from isoflop.store.run import Run
from isoflop.train.restore import published, trained
from isoflop.train.run import train

pytest.importorskip("lm_eval", reason="needs the extra eval")
pytestmark = pytest.mark.filterwarnings("default")  # theirs, of each other
LENGTH = 64
FORMS = ("multiple_choice", "few_shot", "loglikelihood", "loglikelihood_rolling", "generate_until")


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    mixer, feed_forward = {"name": "attention", "heads": 2}, {"name": "swiglu", "hidden": 48}
    tree = {
        "name": "small",
        "tokenizer": "bytes",
        "source": {"name": "text", "paths": [f"{corpus}/*.txt"]},
        "model": {"name": "transformer", "d_model": 32, "layers": 2, "mixer": mixer, "feed_forward": feed_forward},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "budget": {"steps": 80},
        "train": {"batch": 8, "length": LENGTH, "evaluations": 1},
    }
    return train(Recipe.from_json(tree), tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exported") / "model"
    assert invoke(["export", str(run.path), str(place)]) == 0
    return place


@pytest.fixture(scope="module")
def tasks(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A task of each form, on texts of the corpus, whose windows are longer than the model sees in some."""
    folder = tmp_path_factory.mktemp("tasks")
    texts = [file.read_text().strip() for file in sorted(corpus.glob("*.txt"))[:12]]
    rows = [
        {
            "query": text[: 10 + 3 * i],
            "choices": [text[10 + 3 * i :][:9], texts[i - 1][:7], text[::-1][:12], "é"],
            "gold": i % 3,
            "answer": text[10 + 3 * i :][:9],
            "short": text[:60],
            "text": text[: 40 + 30 * i],
        }
        for i, text in enumerate(texts)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl", "shots": "rows.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{answer}}",
        "metadata": {"version": 1.5},
    }
    choice = {**base, "doc_to_target": "{{gold}}", "doc_to_choice": "{{choices}}", "target_delimiter": ""}
    accuracies = {"metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}
    bits = {"metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}]}
    perplexity = {"metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]}
    trees: dict[str, dict[str, Any]] = {
        "multiple_choice": {**choice, **accuracies, "output_type": "multiple_choice"},
        "few_shot": {
            **choice,
            **accuracies,
            "output_type": "multiple_choice",
            "fewshot_split": "shots",
            "num_fewshot": 1,
        },
        "loglikelihood": {**base, **perplexity, "output_type": "loglikelihood"},
        "loglikelihood_rolling": {**base, **bits, "output_type": "loglikelihood_rolling", "doc_to_target": "{{short}}"},
        "generate_until": {
            **base,
            "output_type": "generate_until",
            "generation_kwargs": {"until": [" ", "\n"], "max_gen_toks": 12},
            "metric_list": [{"metric": "exact_match"}],
        },
    }
    for name, tree in trees.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **tree}))
    return {name: folder / f"{name}.yaml" for name in FORMS}


def ours(run: Run, **more: Any) -> Any:
    from isoflop.evals.harness import HarnessModel

    found = trained(run)
    assert found.tokenizer is not None
    return HarnessModel(found.model, found.tokenizer, length=found.reach, batch=8, **more)


def theirs(exported: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(exported), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def served(run: Run, exported: Path) -> Iterator[Any]:
    """lm_eval's client of a server in a process of its own. It asks for a token more than it scores."""
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    command = [sys.executable, "-m", "isoflop", "serve", f"mine={run.path}", "--port", "0", "--context", "160"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        assert process.stdout is not None
        said = ""
        while (found := re.search(r"serving at (\S+);", said)) is None:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield LocalCompletionsAPI(
            base_url=f"{found[1]}/completions",
            model="mine",
            tokenizer=str(exported),
            tokenizer_backend="huggingface",
            add_bos_token=True,
            max_length=LENGTH + 2,
            batch_size=4,
        )
    finally:
        process.terminate()
        process.wait(20)


def measured(model: Any, task: Path) -> HarnessResult:
    from isoflop.evals.harness import measure

    (result,) = measure(model, [read_task(task)])
    return result


def figures(result: HarnessResult) -> Mapping[str, float]:
    return {name: metric.value for name, metric in result.metrics.items() if metric.value is not None}


def asked(form: str, tasks: Mapping[str, Path]) -> list[Any]:
    """The requests of a task's first form, as the harness makes them."""
    from lm_eval.api.instance import Instance

    rows = read_task(tasks[form]).splits["test"]
    if form == "loglikelihood_rolling":
        arguments: list[tuple[Any, ...]] = [(row["text"],) for row in rows]
    elif form == "generate_until":
        arguments = [(row["query"], {"until": ["e"], "max_gen_toks": 20, "do_sample": False}) for row in rows]
    else:
        arguments = [(row["query"], choice) for row in rows for choice in row["choices"]] + [("", rows[0]["answer"])]
    return [Instance(form, {}, each, i) for i, each in enumerate(arguments)]


@pytest.mark.parametrize("form", FORMS)
def test_a_task_has_the_same_numbers_through_transformers(
    form: str, run: Run, exported: Path, tasks: Mapping[str, Path]
) -> None:
    mine, other = measured(ours(run), tasks[form]), measured(theirs(exported), tasks[form])
    assert figures(mine) == pytest.approx(figures(other), rel=2e-5)
    assert mine.digest == other.digest


@pytest.mark.parametrize("form", FORMS)
def test_a_task_has_the_same_numbers_through_the_server(
    form: str, run: Run, served: Any, tasks: Mapping[str, Path]
) -> None:
    mine, other = measured(ours(run), tasks[form]), measured(served, tasks[form])
    assert figures(mine) == pytest.approx(figures(other), rel=2e-5)


def test_each_request_has_the_same_answer(run: Run, exported: Path, tasks: Mapping[str, Path]) -> None:
    """Long texts go in windows, prompts lose their beginning; sums agree to fp32's rounding, texts to the letter."""
    mine, other = ours(run), theirs(exported)
    scores = [model.loglikelihood(asked("loglikelihood", tasks), disable_tqdm=True) for model in (mine, other)]
    assert [greedy for _, greedy in scores[0]] == [greedy for _, greedy in scores[1]]
    assert [total for total, _ in scores[0]] == pytest.approx([total for total, _ in scores[1]], rel=1e-5, abs=1e-4)
    whole = [
        model.loglikelihood_rolling(asked("loglikelihood_rolling", tasks), disable_tqdm=True) for model in (mine, other)
    ]
    assert whole[0] == pytest.approx(whole[1], rel=1e-5)
    texts = [model.generate_until(asked("generate_until", tasks), disable_tqdm=True) for model in (mine, other)]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 3, "texts of some variety"


def test_a_directory_gives_what_its_run_gives(run: Run, exported: Path, tasks: Mapping[str, Path]) -> None:
    from isoflop.evals.harness import HarnessModel

    found = published(exported)
    assert found.tokenizer is not None
    assert found.reach == Published(exported).context == LENGTH
    other = HarnessModel(found.model, found.tokenizer, length=found.reach)
    for form in FORMS:
        assert figures(measured(other, tasks[form])) == pytest.approx(
            figures(measured(ours(run), tasks[form])), rel=1e-6
        )


@pytest.mark.parametrize("puts", ["nothing", "a token of its own"])
def test_texts_of_a_published_model_begin_as_its_tokenizer_says(
    puts: str, exported: Path, tasks: Mapping[str, Path], tmp_path: Path
) -> None:
    """GPT-2's puts nothing before a text; Llama's puts a token there that ends no text."""
    from isoflop.evals.harness import HarnessModel

    directory = Path(shutil.copytree(exported, tmp_path / "model"))
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    first = tokenizer.id_to_token(0 if puts == "a token of its own" else 256)
    tokenizer.add_special_tokens([first])
    template = processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, 0)])
    tokenizer.post_processor = template if puts == "a token of its own" else processors.Sequence([])
    tokenizer.save(str(directory / "tokenizer.json"))
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "bos_token": first}))
    found, other = published(directory), theirs(directory)
    assert found.tokenizer is not None
    mine = HarnessModel(found.model, found.tokenizer, length=found.reach, batch=8)
    assert mine.tok_encode("ab") == other.tok_encode("ab")
    assert len(mine.tok_encode("ab")) == (3 if puts == "a token of its own" else 2)
    for form in FORMS:
        assert figures(measured(mine, tasks[form])) == pytest.approx(figures(measured(other, tasks[form])), rel=2e-5)


def test_results_are_kept_and_shown(
    run: Run, exported: Path, tasks: Mapping[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(run.path.parent)]
    wanted = ["--harness", str(tasks["multiple_choice"]), "--harness", str(tasks["loglikelihood"]), "--limit", "5"]
    assert invoke(["eval", str(run.path), *wanted, *root, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    kept = stored(run.path / HARNESS)
    assert [each.model_dump(mode="json") | {"created": ""} for each in kept] == told
    first = kept[0]
    assert (first.task, first.version, first.samples, first.limit, first.lm_eval) == (
        "multiple_choice",
        "1.5",
        5,
        5,
        __import__("importlib.metadata", fromlist=["version"]).version("lm_eval"),
    )
    assert all(metric.stderr is not None for metric in first.metrics.values())
    assert first.weights == run.result["weights_sha256"]
    assert invoke(["runs", "show", str(run.path), *root]) == 0
    assert "acc_norm" in capsys.readouterr().out
    assert invoke(["eval", str(exported), "--harness", str(tasks["multiple_choice"]), *root]) == 0
    assert invoke(["runs", "show", str(exported), *root]) == 0
    assert capsys.readouterr().out.count("acc_norm") == 2


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"doc_to_txt": "x"}, "doc_to_txt: the harness knows no such key; did you mean doc_to_text"),
        ({"metric_list": [{"metric": "acuracy"}]}, "the harness cannot"),
        ({"generation_kwargs": {"max_gen_toks": 64}}, "64 new tokens and a prompt are more than the 64"),
        ({"generation_kwargs": {"num_beams": 4, "max_gen_toks": 4}}, "no 'num_beams' is known here"),
    ],
)
def test_a_task_that_cannot_be_measured_is_said(
    changes: dict[str, Any], complaint: str, run: Run, tasks: Mapping[str, Path]
) -> None:
    tree = yaml.safe_load(tasks["generate_until"].read_text())
    broken = tasks["generate_until"].with_name("broken.yaml")
    broken.write_text(yaml.safe_dump({**tree, **changes}))
    with pytest.raises(UsageError) as caught:
        measured(ours(run), broken)
    assert complaint in str(caught.value)


def test_drawn_text_depends_on_the_seed_alone(run: Run, tasks: Mapping[str, Path]) -> None:
    from lm_eval.api.instance import Instance

    settings = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "max_gen_toks": 12, "until": "\n\n"}
    requests = [Instance("generate_until", {}, (text, settings), i) for i, text in enumerate(("a", "the ", ""))]
    once, again, other = (ours(run, seed=seed).generate_until(requests) for seed in (1, 1, 2))
    assert once == again
    assert once != other


class ByteGru(nn.Module):
    """The model of the reference."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.gru, self.out = nn.Embedding(257, 64), nn.GRU(64, 64, batch_first=True), nn.Linear(64, 257)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.out(self.gru(self.embedding(tokens))[0])
        return logits


REFERENCE: dict[str, dict[str, Any]] = {
    "piqa30": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}Answer:",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "lambada40": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' ' + continuation}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "ppl6": {
        "output_type": "loglikelihood_rolling",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
}
REFERENCE["arc_easy30"] = REFERENCE["piqa30"]


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_the_reference_is_reproduced(name: str, shared: Path, tmp_path: Path) -> None:
    from isoflop.data.tokenizers.bytes import Bytes
    from isoflop.evals.harness import HarnessModel

    reference = json.loads((shared / "data/data/ref/lm_eval_tiny.json").read_text())
    rows = "".join(json.dumps(item["doc"]) + "\n" for item in reference["samples"][name])
    (tmp_path / "rows.jsonl").write_text(rows)
    files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}, "test_split": "test"}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({"task": name, **files, **REFERENCE[name]}))
    model = HarnessModel(ByteGru().eval(), Bytes(), length=1024, begins=False)
    wanted = {key.partition(",")[0]: value for key, value in reference["results"][name].items() if "," in key}
    found = measured(model, tmp_path / "task.yaml")
    assert found.samples == reference["results"][name]["sample_len"]
    assert figures(found) == pytest.approx(wanted, rel=1e-6)
