"""Text from any model of an experiment, and from any ensemble of its report.

What stands where, and how a text is made of it::

    speakers.py    Speakers(lineage): which there are, loading by name, memory
    speaker.py     Speaker: prefill, one decoding step for many sequences at once
    prompt_reading.py  prompts in few passes; mixing.py: the mean of the experts' probabilities
    sequences.py   TokenSequence: one text under way, with its own keys and values
    weighing.py    how an ensemble weighs its experts, token by token
    networks.py    models with a common trunk, token by token; forward_passes.py: one model's
                   passes; cached_rows.py: keys and values
    ensembles.py   the report's ensembles by their names
    sampling.py    Sampler: the next token from its log-probabilities
    text_stream.py TextStream: text from tokens as they come
    continuation.py  Continuation: all of these for one prompt, as ``mdel generate`` does it

    speakers = Speakers(lineage)
    speaker = speakers.load("ensemble-posterior-top2")
    sequence = speaker.start(speaker.encode("def "))
    sampler = Sampler(temperature=0.8, top_p=0.95, seed=0)
    stream = TextStream(speaker.tokenizer, prompt=sequence.tokens)
    while sequence.has_room:
        token = sampler.choose(sequence.log_probabilities_V)
        if token in speaker.end_ids:
            break
        print(stream.add(token), end="")
        speaker.step([sequence], [token])
    print(stream.end())

`Speakers`
    ``names() -> list[str]``: model keys, then ensembles; reads records alone, imports no torch.
    ``load(name) -> Speaker``: reads what is made and up to date, else an `MdelError` with the
    remedy; the same object while it is loaded. Weights that speakers have in common are held once.
    ``release(name)``: lets it go; memory comes back once its sequences are gone, too.
    ``held_bytes -> int``: of all that is loaded, common weights once.
    ``bytes_of(name) -> int``: of a loaded speaker's weights, those that it shares, too.
    ``tokenizer(name)``: reads text as scoring does; no weights are loaded for it.
    ``fingerprint(name) -> str``: changes with what the speaker is made of.
    ``bytes_at_most(name) -> int``: what loading would add at most, by the sizes of files alone.

`Speaker`
    ``name: str``, ``fingerprint: str`` (of what was loaded), ``tokenizer`` (reads text as scoring
    does), ``experts: tuple[str, ...]`` (model keys; one for a single model),
    ``end_ids: frozenset[int]``.
    ``context_length: int | None``: tokens of prompt and continuation together.
    ``decodes_together: bool``: where False, the sequences of a step run one after the other, which
    is right but slow.
    ``cache_bytes_per_token: int``: of one sequence, all experts together.
    ``cache_bytes(lengths) -> int``: of sequences so long, at most, padding and copies included.
    ``encode(text) -> list[int]``: without special tokens.
    ``start(prompt, *, domain=None, num_top=None) -> TokenSequence``: `begin` and `prefill`.
    ``begin(...)``, likewise, reads nothing yet; ``prefill(sequence, num_tokens=None) -> bool``
    reads so many more tokens of the prompt, or all; True once the sequence is ready for a step.
    ``prefill_together(sequences, num_tokens=None)`` does so for several, those of about the same
    length in one pass.
    An empty prompt is fine. ``domain``: the posterior starts with the prior that the report has for
    that domain's texts, and ``ensemble-label`` takes its expert. ``num_top``: not None asks for the
    prompt's scores, with so many of the likeliest alternatives each (0: none).
    ``step(sequences, tokens)``: append a token to each; the next distribution of each that still
    has room is there afterwards. Any sequences of this speaker that are ready and have room, of any
    lengths; which others are in the step changes nothing but the rounding.

`TokenSequence`
    ``tokens: list[int]`` (prompt and what was appended), ``num_prompt_tokens: int``,
    ``log_probabilities_V`` (fp32 tensor, natural logarithms, of the next token; what is mixed is
    mixed), ``weights_E`` (NumPy, of the next token's experts, sums to one), ``has_room: bool``,
    ``prompt_scores: list[TokenScore] | None`` (each with ``token``, ``log_probability``, ``top``:
    pairs of token and log-probability). Dropping it frees its keys and values.

Neither is safe to use from several threads at once: one thread decodes.
A model is opened by the prefix token of scoring, so the first token has a probability as well.
"""
