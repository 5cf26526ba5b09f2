"""``mdel generate``: what it prints, and where it ends."""

import io
import json
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.generation.continuation import Continuation
from mdel_assets.generation.speakers import Speakers


class CtrlC(io.BytesIO):
    """Standard input on which Ctrl-C is pressed."""

    def read(self, size=-1):
        if size == 0:
            return b""
        raise KeyboardInterrupt


@pytest.fixture
def command(finished, tmp_path, monkeypatch):
    """Return a function that runs ``mdel generate`` on the finished line."""
    experiment, home, _ = finished
    path = tmp_path / "pico.yaml"
    path.write_text(yaml.safe_dump(json.loads(experiment.model_dump_json(exclude_none=True))))
    monkeypatch.setenv("MDEL_HOME", str(home.root))
    monkeypatch.setenv("MDEL_EXPERIMENT", str(path))

    def run(*arguments, **options):
        return CliRunner().invoke(main, ["generate", *arguments], **options)

    return run


def test_the_same_seed_gives_the_same_text_and_another_another(command):
    arguments = ("ensemble-posterior-top2", "--prompt", "def return", "--max-new-tokens", "12")
    first, again = command(*arguments), command(*arguments, "--seed", "0")
    assert first.exit_code == 0, first.output
    assert first.stdout == again.stdout
    assert len(first.stdout) > 5
    assert command(*arguments, "--seed", "1").stdout != first.stdout


def test_standard_input_is_the_prompt_without_its_last_newline(command):
    options = ("expert-github", "--max-new-tokens", "12", "--temperature", "0.5")
    told = command(*options, "--prompt", "court\nappeal")
    piped = command(*options, input="court\nappeal\n")
    assert piped.exit_code == 0, piped.output
    assert piped.stdout == told.stdout
    assert "no UTF-8" in command(*options, input=b"\xff").output


def test_what_is_printed_is_the_continuation(command, finished):
    experiment, home, _ = finished
    speaker = Speakers(home.lineage(experiment)).load("expert-arxiv")
    continuation = Continuation(speaker, "theorem", max_new_tokens=10, temperature=0.0)
    text = "".join(continuation)
    assert continuation.ended_by == "max_new_tokens"
    tokens = speaker.encode("theorem")
    assert text == speaker.tokenizer.decode(tokens + continuation.tokens)[len("theorem") :]
    arguments = ("expert-arxiv", "--prompt", "theorem", "--max-new-tokens", "10")
    assert command(*arguments, "--temperature", "0").stdout == f"{text}\n"


def test_weights_say_which_experts_spoke(command):
    arguments = ("ensemble-label", "--prompt", "a", "--domain", "arxiv", "--max-new-tokens", "3")
    done = command(*arguments, "--show-weights")
    assert done.exit_code == 0, done.output
    *_, header, line = done.stderr.splitlines()
    assert header.split() == ["mean", "weight", "heaviest", "at"]
    assert line.split() == ["expert-arxiv", "1.000", "3", "of", "3", "tokens"]
    plain = command(*arguments)
    assert (plain.stdout, plain.stderr) == (done.stdout, "")


def test_mean_weights_and_who_led_are_those_of_the_tokens(finished):
    experiment, home, _ = finished
    speaker = Speakers(home.lineage(experiment)).load("ensemble-posterior-all")
    continuation = Continuation(speaker, "def", max_new_tokens=6, seed=3, domain="github")
    list(continuation)
    sequence = speaker.start(speaker.encode("def"), domain="github")
    weights = []
    for token in continuation.tokens:
        weights.append(sequence.weights_E)
        speaker.step([sequence], [token])
    means = sum(weights) / len(weights)
    assert list(continuation.mean_weights().values()) == pytest.approx(means.tolist())
    led = [int(each.argmax()) for each in weights]
    assert list(continuation.num_led().values()) == [led.count(e) for e in range(3)]


def test_the_context_ends_a_text_and_says_so(command):
    options = ("expert-github", "--temperature", "0", "--max-new-tokens", "1000")
    done = command(*options, "--prompt", "def return")
    assert done.exit_code == 0, done.output
    assert done.stderr.strip() == "The model's context of 64 tokens is full."
    long = command(*options, "--prompt", "def " * 100)
    assert long.exit_code == 1
    assert "reads 64 at most" in long.stderr


def test_the_end_of_text_ends_a_text(finished):
    experiment, home, _ = finished
    speaker = Speakers(home.lineage(experiment)).load("expert-github")
    (end,) = speaker.end_ids
    for seed in range(100):
        continuation = Continuation(speaker, "def", max_new_tokens=40, seed=seed)
        list(continuation)
        assert end not in continuation.tokens
        if continuation.ended_by == "end of text":
            break
    else:
        pytest.fail("no text ended")
    sequence = speaker.start([*speaker.encode("def"), *continuation.tokens])
    assert sequence.has_room


def test_ctrl_c_ends_with_one_line(command):
    done = command("expert-github", input=CtrlC())
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "Error: Stopped after 0 tokens."
    assert "Traceback" not in done.output


def test_a_name_that_is_none_is_refused_before_anything_is_loaded(command):
    done = command("ensemble-posterior-top3", "--prompt", "a")
    assert done.exit_code == 1
    assert "Did you mean 'ensemble-posterior-top2'" in done.output


def test_commands_start_without_torch():
    code = (
        "import sys, mdel_assets.cli.main, mdel_assets.generation.speakers\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
