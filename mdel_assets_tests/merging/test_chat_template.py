"""Chat templates of merged models: by name, the models' own, or Jinja; against mergekit's."""

import importlib.resources
import json

import jinja2
import pytest
import transformers
import yaml
from mergekit._data import chat_templates

from mdel_assets.errors import MergeError
from mdel_assets.model_families.chat_templates import CHAT_TEMPLATES
from mdel_assets_tests.merging.speakers import (
    ids_of,
    merge_ours,
    merge_theirs,
    placed,
    save_model,
)

JINJA = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
RECIPE = """
    merge_method: linear
    models: [{model: A}, {model: B}, {model: C}]
    parameters: {weight: 1.0}
    tokenizer_source: union
"""
ALIKE = """
    merge_method: linear
    models: [{model: A}, {model: A}]
    parameters: {weight: 1.0}
"""
TALKS = [
    [("user", " Hi ")],
    [("system", " Be. "), ("user", "Hi")],
    [("user", "Hi"), ("assistant", " Yes "), ("user", "x")],
    [("system", "Be."), ("user", "Hi"), ("assistant", "Yes"), ("user", "x")],
    [("user", "Hi"), ("assistant", "Yes")],
    [("user", "a"), ("user", "b")],
    [("user", "a"), ("tool", " t ")],
    [("user", "a"), ("system", "s"), ("user", "c")],
]


def template_of(folder):
    return transformers.AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.parametrize("setting", ["auto", JINJA])
def test_a_template_is_mergekits(setting, speakers, tmp_path):
    content = placed(yaml.safe_load(RECIPE), speakers)
    content |= {"dtype": "float32", "chat_template": setting}
    ours, theirs = merge_ours(content, tmp_path), merge_theirs(content, tmp_path)
    assert template_of(ours) == template_of(theirs)
    # B and C have the same one, but for the space around it.
    expected = {"auto": "b{{ messages[0].content }} of the B"}.get(setting, setting)
    assert (ours / "chat_template.jinja").read_text() == expected


@pytest.mark.parametrize("setting", ["auto", JINJA, "chatml"])
def test_a_template_without_another_tokenizer_is_written_into_the_one_that_is_kept(
    setting, speakers, tmp_path
):
    content = placed(yaml.safe_load(ALIKE), speakers) | {"chat_template": setting}
    out = merge_ours(content, tmp_path)
    expected = {
        "auto": "a{{ messages[0].content }} of the A",
        "chatml": CHAT_TEMPLATES["chatml"],
    }.get(setting, setting)
    assert template_of(out) == expected
    assert ids_of(out) == ids_of(speakers["A"])
    tokenizer = (out / "tokenizer.json").read_bytes()
    assert tokenizer == (speakers["A"] / "tokenizer.json").read_bytes()


def test_a_template_in_the_older_place_is_read_and_replaced(tmp_path):
    save_model(tmp_path / "old", seed=1, text="cats")
    path = tmp_path / "old" / "tokenizer_config.json"
    several = [{"name": "tool", "template": "no"}, {"name": "default", "template": f" {JINJA}\n"}]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": several}))
    content = placed(yaml.safe_load(ALIKE), {"A": tmp_path / "old"})
    for setting, expected in (("auto", JINJA), ("mistral", CHAT_TEMPLATES["mistral"])):
        out = merge_ours(content | {"chat_template": setting}, tmp_path, setting)
        assert template_of(out) == expected


def test_without_any_template_auto_writes_none(speakers, tmp_path):
    content = placed(yaml.safe_load(ALIKE.replace("A", "D")), speakers)
    out = merge_ours(content | {"chat_template": "auto"}, tmp_path)
    assert not (out / "chat_template.jinja").exists()
    assert template_of(out) is None


@pytest.mark.parametrize("name", sorted(CHAT_TEMPLATES))
def test_named_templates_render_what_mergekits_do(name):
    def refuse(message):
        raise jinja2.TemplateError(message)

    # As transformers renders them.
    surroundings = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    surroundings.globals["raise_exception"] = refuse
    theirs = importlib.resources.files(chat_templates).joinpath(f"{name}.jinja").read_text()
    for talk in TALKS:
        messages = [{"role": role, "content": content} for role, content in talk]
        for prompted in (False, True):
            told = []
            for template in (CHAT_TEMPLATES[name], theirs):
                try:
                    found = surroundings.from_string(template).render(
                        messages=messages,
                        bos_token="<s>",
                        eos_token="</s>",
                        add_generation_prompt=prompted,
                    )
                except jinja2.TemplateError:
                    found = None
                told.append(found)
            if name == "exaone":
                # mergekit's indentation becomes part of its prompts.
                told = ["".join(text.split()) for text in told]
            assert told[0] == told[1], talk


@pytest.mark.parametrize("setting", ["chatmI", "{{ short }}", "a name of more than twenty letters"])
def test_what_is_no_template_is_refused(setting, speakers, tmp_path):
    content = placed(yaml.safe_load(ALIKE), speakers) | {"chat_template": setting}
    with pytest.raises(MergeError, match=r"neither a known name nor a Jinja template.*alpaca"):
        merge_ours(content, tmp_path)


def test_a_template_for_a_model_without_tokenizer_is_refused(speakers, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((speakers["A"] / name).read_bytes())
    content = placed(yaml.safe_load(ALIKE), {"A": bare}) | {"chat_template": "chatml"}
    with pytest.raises(MergeError, match=r"has no tokenizer_config.json. Save its tokenizer"):
        merge_ours(content, tmp_path)
    assert not (tmp_path / "ours").exists()
