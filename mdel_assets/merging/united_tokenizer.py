"""The tokenizer of a merge whose models have different ones, and each model's row for a token.

The union begins with the base's tokenizer, whose tokens keep their ids; tokens of other models are
added to it. Everything here happens before any weight is read.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdel_assets.errors import MdelError, MergeError
from mdel_assets.experiment.merged_tokenizer import UNION, MergedTokenizer, TokenSource
from mdel_assets.merging.members import Members
from mdel_assets.store.carry_over import is_of_tokenizer
from mdel_assets.store.digests import file_digest

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """The embedding that is given for a token: a row of the model in ``folder``; zero if None.

    ``adapter`` is the folder of the adapter that is merged into that model.
    """

    folder: Path | None
    row: int = 0
    force: bool = False
    adapter: Path | None = None


@dataclasses.dataclass(frozen=True)
class UnitedTokenizer:
    """A merged model's tokenizer, and the rows that its tokens have in the embeddings.

    ``ids`` maps tokens to rows of the merged model, which has ``num_rows``, those from
    ``num_used`` on for padding. ``own_ids`` maps each model's folder to the rows of its tokens.
    ``given`` has the tokens whose embedding the recipe says. ``first`` is the folder of the model
    whose special tokens it has, ``first_ids`` the ids that mean a token of it.
    """

    tokenizer: Any
    ids: Mapping[str, int]
    num_rows: int
    own_ids: Mapping[Path, Mapping[str, int]]
    given: Mapping[str, TokenRow]
    first: Path
    first_ids: frozenset[int]

    @property
    def num_used(self) -> int:
        """How many rows belong to tokens."""
        return 1 + max(self.ids.values())

    def write(self, folder: Path, *, model_folder: Path) -> None:
        """Save the tokenizer in ``folder``, and correct the configuration, ``model_folder``'s.

        If the special tokens are those of another model, their ids become that model's, too. An id
        that means no token of that model becomes None: another model's token may have it now.
        """
        self.tokenizer.save_pretrained(folder)
        path = folder / "config.json"
        config = json.loads(path.read_text("utf-8"))
        for part in _parts_with_vocabulary(config):
            part["vocab_size"] = self.num_rows
        is_other = self.first != model_folder
        others = _read_json(self.first / "config.json")
        if is_other:
            _take_token_ids(config, others)
        self._drop_token_ids(config)
        generation = folder / "generation_config.json"
        if generation.is_file():
            content = _read_json(generation)
            if is_other:
                _take_token_ids(content, _read_json(self.first / generation.name) or others)
            self._drop_token_ids(content)
            generation.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")

    def _drop_token_ids(self, config: dict[str, Any]) -> None:
        """Remove the ids in a configuration that mean no token of the first model."""
        for name in _TOKEN_IDS:
            value = config.get(name)
            if isinstance(value, list):
                config[name] = [one for one in value if one in self.first_ids] or None
            elif value is not None and value not in self.first_ids:
                config[name] = None


@dataclasses.dataclass(frozen=True)
class _Own:
    """A model's tokenizer and the rows of its tokens, without tokens that have no row."""

    tokenizer: Any
    ids: Mapping[str, int]
    num_rows: int


def united_tokenizer(
    members: Members,
    folders: Mapping[str, Path],
    adapters: Sequence[Path | None] = (),
) -> UnitedTokenizer | None:
    """Return the tokenizer of a merge; None if its models share one.

    ``folders`` has the place of each model, ``adapters`` those of the adapters that are merged
    into them, in the order of ``members``.

    Raises:
        MergeError: a model has no tokenizer, or one of a kind that cannot be changed as asked, or
            a token's embedding is nowhere to be found.

    """
    settings = members.tokenizer
    if settings is None:
        return None
    first = members.base or members.models[0]
    names = list(dict.fromkeys([first.name, *(member.name for member in members)]))
    cache: dict[str, _Own] = {}
    found = {name: _own(name, folders[name], cache) for name in names}
    if settings.model:
        tokenizer = _loaded(settings.model, folders[settings.model])
    else:
        tokenizer = _loaded(first.name, folders[first.name])
        _strip(tokenizer, first.name, num_rows=found[first.name].num_rows)
    merged = {member.name: one for member, one in zip(members, adapters, strict=False)}
    first_ids = frozenset(tokenizer.get_vocab().values())
    if settings.source == UNION:
        _add_all(tokenizer, [found[name] for name in names])
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in settings.tokens if token not in known])
    ids = dict(sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    multiple = settings.pad_to_multiple_of or 1
    num_used = 1 + max(ids.values())
    return UnitedTokenizer(
        tokenizer=tokenizer,
        ids=ids,
        num_rows=-(-num_used // multiple) * multiple,
        own_ids={folders[name]: own.ids for name, own in found.items()},
        given=_given(settings, found, folders, merged),
        first=folders[settings.model or first.name],
        first_ids=first_ids,
    )


def _own(name: str, folder: Path, cache: dict[str, _Own]) -> _Own:
    """Return a model's tokenizer; models with the same files share one in ``cache``."""
    num_rows = vocabulary_size(folder)
    files = sorted(path for path in folder.iterdir() if is_of_tokenizer(path.name))
    digests = [f"{path.name} {file_digest(path)}" for path in files]
    key = f"{num_rows} {digests}"
    if key not in cache:
        tokenizer = _loaded(name, folder)
        ids = tokenizer.get_vocab()
        rows = num_rows or 1 + max(ids.values())
        kept = {t: i for t, i in sorted(ids.items(), key=lambda entry: entry[1]) if i < rows}
        cache[key] = _Own(tokenizer, kept, rows)
    return cache[key]


def _loaded(name: str, folder: Path) -> Any:
    from mdel_assets.training.model_files import stored_tokenizer

    try:
        tokenizer = stored_tokenizer(folder)
    except MdelError as error:
        raise MergeError(
            f"The tokenizer of {name} is needed, because the recipe has 'tokenizer': {error}"
        ) from error
    if not tokenizer.is_fast:
        raise MergeError(
            f"The tokenizer of {name} ({type(tokenizer).__name__}) has no tokenizer.json and "
            f"cannot be converted to one, so it cannot be united with others. Remove 'tokenizer' "
            f"from the recipe if all models have this one, or remove {name}."
        )
    return tokenizer


def _add_all(tokenizer: Any, models: Sequence[_Own]) -> None:
    """Add to the first model's tokenizer what the others have: plain tokens, then added ones.

    If models disagree about an added token, the first one's settings hold.
    """
    added: dict[str, Any] = {}
    plain: dict[str, None] = {}
    for own in models:
        decoder = own.tokenizer.added_tokens_decoder
        entries = {entry.content: entry for entry in decoder.values() if entry.content in own.ids}
        plain |= dict.fromkeys(token for token in own.ids if token not in entries)
        added = {**entries, **added}
    known = models[0].ids
    tokenizer.add_tokens([token for token in plain if token not in known and token not in added])
    own_added = {entry.content for entry in tokenizer.added_tokens_decoder.values()}
    for token, entry in added.items():
        if token not in own_added or token not in known:
            tokenizer.add_tokens(entry)


def _strip(tokenizer: Any, name: str, *, num_rows: int) -> None:
    """Remove tokens for which the model has no row."""
    unused = {token for token, number in tokenizer.get_vocab().items() if number >= num_rows}
    if not unused:
        return
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "BPE":
        raise MergeError(
            f"The tokenizer of {name} has {len(unused)} tokens for which the model has no row "
            f"(such as {min(unused)!r}; it has {num_rows} rows). They can be removed from a BPE "
            f"tokenizer only; this one is {content['model']['type']}. Remove them, or take "
            f"another model as base."
        )
    model = content["model"]
    model["vocab"] = {t: number for t, number in model["vocab"].items() if t not in unused}
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    kept = [pair for pair in pairs if not unused & {*pair, "".join(pair)}]
    model["merges"] = kept
    content["added_tokens"] = [e for e in content["added_tokens"] if e["id"] < num_rows]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    # When the tokenizer is loaded, special tokens that are still named would be added again.
    for kind, token in tokenizer.special_tokens_map.items():
        if isinstance(token, str) and token in unused:
            setattr(tokenizer, kind, None)
    extra = tokenizer.extra_special_tokens
    tokenizer.extra_special_tokens = [token for token in extra if str(token) not in unused]


def _given(
    settings: MergedTokenizer,
    found: Mapping[str, _Own],
    folders: Mapping[str, Path],
    adapters: Mapping[str, Path | None],
) -> dict[str, TokenRow]:
    """Return the embeddings that a recipe gives; those that no model needs are left out."""
    rows = {}
    for token, entry in settings.tokens.items():
        if not entry.force and all(token in own.ids for own in found.values()):
            continue
        source = entry.source
        if source is None:
            lacking = [name for name, own in found.items() if token not in own.ids]
            raise MergeError(
                f"tokenizer.tokens: the token {token!r} needs a 'source', because "
                + (f"{', '.join(lacking)} lack it" if lacking else "it has force: true")
                + ". Give a model that has it, {kind: zero} or {kind: model_token, ...}."
            )
        if isinstance(source, TokenSource) and source.kind == "zero":
            rows[token] = TokenRow(None, force=entry.force)
            continue
        name = entry.model or ""
        row = _row(token, source, found[name], name)
        rows[token] = TokenRow(folders[name], row, entry.force, adapters.get(name))
    return rows


def _row(token: str, source: TokenSource | str, own: _Own, name: str) -> int:
    """Return the row of ``name`` that the source of a token means."""
    if isinstance(source, TokenSource) and source.token_id is not None:
        if source.token_id < own.num_rows:
            return source.token_id
        raise MergeError(
            f"tokenizer.tokens: the embedding of {token!r} is token_id {source.token_id} of "
            f"{name}, which has {own.num_rows} rows: expected at most {own.num_rows - 1}."
        )
    wanted = (source.token or "") if isinstance(source, TokenSource) else token
    if wanted in own.ids:
        return own.ids[wanted]
    raise MergeError(
        f"tokenizer.tokens: the embedding of {token!r} is to be that of {wanted!r} in {name}, "
        f"whose vocabulary lacks {wanted!r}. Name a model that has it, {{kind: zero}}, or a token "
        f"of {name} with {{kind: model_token, model: {name}, token: ...}}."
    )


def vocabulary_size(folder: Path) -> int | None:
    """Return how many rows a model's embedding has, by its configuration; None if it is silent."""
    config = _read_json(folder / "config.json")
    return next((part["vocab_size"] for part in _parts_with_vocabulary(config)), None)


def _parts_with_vocabulary(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of a configuration with a number of tokens, its language model's first."""
    parts = [config.get("text_config"), config]
    return [p for p in parts if isinstance(p, dict) and isinstance(p.get("vocab_size"), int)]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text("utf-8"))
    return content if isinstance(content, dict) else {}


def _take_token_ids(config: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name in _TOKEN_IDS:
        config.pop(name, None)
        if name in other:
            config[name] = other[name]
