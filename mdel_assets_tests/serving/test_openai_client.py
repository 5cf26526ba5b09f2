"""The unmodified client of OpenAI against a server with the finished pico line."""

import json
import math

import openai
import pytest
from click.testing import CliRunner

from mdel_assets.cli.main import main
from mdel_assets.generation.speakers import Speakers
from mdel_assets_tests.serving.conftest import LOOPING, running
from mdel_assets_tests.serving.stored_scores import first_scored_document
from mdel_assets_tests.waiting import wait_until

KEY = "a key of more than sixteen characters"
PROMPT = "def return import"


@pytest.fixture(scope="module")
def client(server):
    with server.client() as found:
        yield found


def test_models_are_those_of_the_line_and_its_ensembles(client, lineage):
    listed = [model.id for model in client.models.list()]
    assert {"seed", "dense", "expert-github", "merged-mean-all", "random-1"} <= set(listed)
    assert "ensemble-posterior-top2" in listed
    assert "expert-enron" not in listed
    assert client.models.retrieve("seed").owned_by == lineage.experiment.name
    with pytest.raises(openai.NotFoundError, match="Did you mean 'expert-arxiv'"):
        client.models.retrieve("expert-arxif")
    with pytest.raises(openai.NotFoundError, match="expert-enron is not made"):
        client.models.retrieve("expert-enron")


@pytest.mark.parametrize("model", ["seed", "expert-arxiv", "ensemble-posterior-top2"])
def test_a_stream_holds_the_text_of_the_whole_answer(client, model):
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 24, "seed": 5, "temperature": 1.0}
    whole = client.completions.create(**asked)
    pieces = list(
        client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert whole.usage.completion_tokens == 24
    assert pieces[-1].usage == whole.usage
    texts = [piece.choices[0].text for piece in pieces[:-1]]
    assert len(texts) > 5
    assert "".join(texts) == whole.choices[0].text
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"


@pytest.mark.parametrize("model", ["expert-github", "ensemble-posterior-top2"])
def test_answers_tell_the_fingerprint_of_what_wrote_them(client, lineage, model):
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 3}
    told = client.completions.create(**asked).system_fingerprint
    assert told == Speakers(lineage).fingerprint(model)
    stream = client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert {piece.system_fingerprint for piece in stream} == {told}


def test_a_chat_tells_the_fingerprint_too(client, lineage):
    asked = {"model": "dense", "messages": [{"role": "user", "content": "def"}], "max_tokens": 3}
    expected = lineage.model("dense").require().fingerprint
    assert client.chat.completions.create(**asked).system_fingerprint == expected
    stream = client.chat.completions.create(**asked, stream=True)
    assert {piece.system_fingerprint for piece in stream} == {expected}


@pytest.mark.parametrize("model", ["expert-github", "merged-mean-all", "ensemble-linear-top1"])
@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.8}])
def test_the_text_is_what_mdel_generate_writes(client, environment, model, settings):
    asked = {"model": model, "prompt": PROMPT, "max_tokens": 20, "seed": 3} | settings
    served = client.completions.create(**asked).choices[0].text
    words = [model, "--prompt", PROMPT, "--max-new-tokens", "20", "--seed", "3"]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    runner = CliRunner(env=environment)
    printed = runner.invoke(main, ["generate", *words], catch_exceptions=False).stdout
    assert served
    assert printed == f"{served}\n"


def test_echoed_log_probabilities_are_those_of_the_stored_scores(client, lineage):
    """What `token_scores` has computed in another way, of a document of the line."""
    document = first_scored_document(lineage, "expert-github", max_tokens=31)
    answer = client.completions.create(
        model="expert-github", prompt=document.ids, max_tokens=0, echo=True, logprobs=0
    )
    told = answer.choices[0].logprobs
    assert told.token_logprobs == pytest.approx(document.log_p, abs=1e-4)
    assert "".join(told.tokens) == answer.choices[0].text == document.text
    assert answer.choices[0].text[told.text_offset[3] :].startswith(told.tokens[3])
    assert answer.usage.total_tokens == 31


def test_alternatives_are_the_most_probable_tokens(client):
    asked = {"model": "seed", "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    told = client.completions.create(**asked, logprobs=5).choices[0].logprobs
    for token, log_p, top in zip(told.tokens, told.token_logprobs, told.top_logprobs, strict=True):
        assert top[token] == log_p == max(top.values())
        assert len(top) == 5
        assert 0 < sum(map(math.exp, top.values())) < 1


def test_streamed_log_probabilities_are_those_of_the_whole_answer(client):
    asked = {"model": "seed", "prompt": PROMPT, "max_tokens": 9, "seed": 1, "logprobs": 2}
    whole = client.completions.create(**asked, echo=True).choices[0].logprobs
    pieces = [p.choices[0].logprobs for p in client.completions.create(**asked, stream=True)]
    tokens = [token for piece in pieces for token in piece.tokens]
    assert tokens == whole.tokens[-9:]
    offsets = [offset + len(PROMPT) for piece in pieces for offset in piece.text_offset]
    assert offsets == whole.text_offset[-9:]


def test_every_choice_has_its_own_seed_and_each_prompt_its_choices(client):
    asked = {"model": "seed", "max_tokens": 12, "seed": 40}
    answer = client.completions.create(**asked, prompt=["def", "court"], n=2, echo=True)
    texts = [choice.text for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [text[:3] for text in texts] == ["def", "def", "cou", "cou"]
    assert len(set(texts)) == 4
    second = client.completions.create(**asked | {"seed": 41}, prompt="court", echo=True)
    assert second.choices[0].text == texts[3]


def test_the_text_ends_before_a_stop(client):
    asked = {"model": "seed", "prompt": PROMPT, "max_tokens": 24, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    stop = text[15:19]
    cut = client.completions.create(**asked, stop=["never said", stop]).choices[0]
    assert cut.text == text[: text.index(stop)]
    assert cut.finish_reason == "stop"
    pieces = list(client.completions.create(**asked, stop=stop, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == cut.text
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_an_ensemble_that_weighs_by_domain_asks_for_it(client):
    asked = {"model": "ensemble-label", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    with pytest.raises(openai.BadRequestError, match="domain"):
        client.completions.create(**asked)
    told = client.completions.create(**asked, extra_body={"domain": "arxiv"})
    expert = client.completions.create(**asked | {"model": "expert-arxiv"})
    assert told.choices[0].text == expert.choices[0].text


def test_a_model_without_chat_template_says_so(client):
    messages = [{"role": "user", "content": "Who are you?"}]
    with pytest.raises(openai.BadRequestError, match="no chat template") as refused:
        client.chat.completions.create(model="seed", messages=messages)
    assert refused.value.code == "no_chat_template"


def test_a_chat_is_the_text_that_the_template_makes_of_it(client):
    messages = [
        {"role": "user", "content": "def"},
        {"role": "assistant", "content": "return"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "im"}, {"type": "text", "text": "port"}],
        },
    ]
    asked = {"model": "dense", "max_tokens": 9, "temperature": 0}
    text = "user: def\nassistant: return\nuser: import\nassistant: "
    expected = client.completions.create(**asked, prompt=text, logprobs=2)
    chat = client.chat.completions.create(**asked, messages=messages, logprobs=True, top_logprobs=2)
    (choice,) = chat.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == expected.choices[0].text
    assert chat.usage == expected.usage
    told = expected.choices[0].logprobs
    assert [token.token for token in choice.logprobs.content] == told.tokens
    assert [token.logprob for token in choice.logprobs.content] == told.token_logprobs
    tops = [{top.token: top.logprob for top in t.top_logprobs} for t in choice.logprobs.content]
    assert tops == told.top_logprobs
    stream = list(client.chat.completions.create(**asked, messages=messages, stream=True))
    assert stream[0].choices[0].delta.role == "assistant"
    streamed = "".join(piece.choices[0].delta.content or "" for piece in stream)
    assert streamed == choice.message.content
    assert stream[-1].choices[0].finish_reason == "length"


def test_a_chat_without_a_limit_goes_on_to_the_end_of_the_context(client):
    messages = [{"role": "user", "content": "def"}]
    chat = client.chat.completions.create(model="dense", messages=messages, temperature=0)
    assert chat.choices[0].finish_reason == "length"
    assert chat.usage.total_tokens == 64


def test_what_the_template_refuses_is_told(client):
    messages = [{"role": "system", "content": "Be brief."}]
    with pytest.raises(openai.BadRequestError, match="no system here"):
        client.chat.completions.create(model="dense", messages=messages)


def test_without_a_key_of_the_server_nothing_is_answered(lineage):
    with running(lineage, keys=[KEY, f"another {KEY}"]) as server:
        for wrong in (KEY[:-1], KEY.upper(), f"{KEY} {KEY}"):
            with server.client(wrong) as client, pytest.raises(openai.AuthenticationError) as no:
                client.models.list()
            assert KEY[:-1] not in str(no.value)
        asked = {"model": "seed", "prompt": PROMPT, "max_tokens": 3}
        assert server.post(asked).status_code == 401
        assert server.post(asked, headers={"authorization": KEY}).status_code == 401
        assert server.get("/metrics").status_code == 401
        assert server.get("/health").status_code == 200
        with server.client(f"another {KEY}") as client:
            assert client.completions.create(**asked).usage.completion_tokens == 3


def test_a_client_that_leaves_stops_the_decoding(server, client):
    labels = {"model": "seed", "reason": "cancelled"}
    before = server.meter("mdel_sequences_ended_total", **labels)
    stream = client.completions.create(**LOOPING, stream=True, n=2)
    for _, _ in zip(range(5), stream, strict=False):
        pass
    assert server.meter("mdel_sequences_running") == 2
    stream.close()
    wait_until(lambda: not server.meter("mdel_cache_bytes"), every=0.01)
    assert server.meter("mdel_sequences_running") == 0
    assert server.meter("mdel_sequences_ended_total", **labels) == before + 2


def test_who_does_not_wait_for_a_whole_answer_stops_it_too(server):
    labels = {"model": "seed", "status": "499"}
    before = server.meter("mdel_requests_total", **labels)
    body = json.dumps(LOOPING).encode()
    with server.connect(f"content-length: {len(body)}") as connection:
        connection.sendall(body)
        wait_until(lambda: server.meter("mdel_sequences_running"), every=0.01)
    wait_until(lambda: server.meter("mdel_requests_total", **labels) == before + 1, every=0.01)
    wait_until(lambda: not server.meter("mdel_sequences_running"), every=0.01)
