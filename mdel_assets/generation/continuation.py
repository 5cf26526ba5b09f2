"""One prompt continued, as ``mdel generate`` does it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mdel_assets.errors import GenerationError
from mdel_assets.evaluation.ensemble import Array
from mdel_assets.generation.sampling import Sampler
from mdel_assets.generation.text_stream import TextStream

if TYPE_CHECKING:
    from mdel_assets.generation.speaker import Speaker

# Shapes in names: E experts, T tokens of the continuation.


class Continuation:
    """The text that a speaker puts behind ``prompt``: iterate over it to have it piece by piece.

    ``domain`` tells where the prompt is from, for ensembles to which that matters. The same
    settings and seed give the same text. It ends at the end-of-text token, after
    ``max_new_tokens``, or where the model's context is full; ``ended_by`` says which of them it
    was, ``end of text``, ``max_new_tokens`` or ``context``, and is empty before.

    Raises:
        GenerationError: a setting out of its range; a prompt that leaves no room.

    """

    def __init__(
        self,
        speaker: "Speaker",
        prompt: str,
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
        domain: str | None = None,
    ) -> None:
        if max_new_tokens < 1:
            raise GenerationError(f"max_new_tokens is {max_new_tokens}, expected 1 or more.")
        self.speaker = speaker
        self.ended_by = ""
        self.tokens: list[int] = []
        self._weights_TE: list[Array] = []
        self._max_new_tokens = max_new_tokens
        self._sampler = Sampler(temperature=temperature, top_p=top_p, seed=seed)
        self._sequence = speaker.begin(speaker.encode(prompt), domain=domain)

    def __iter__(self) -> Iterator[str]:
        from mdel_assets.machine.shared_cores import sharing_cores

        speaker, sequence = self.speaker, self._sequence
        stream = TextStream(speaker.tokenizer, prompt=sequence.tokens)
        with sharing_cores():
            speaker.prefill(sequence)
            while not self.ended_by:
                token = self._sampler.choose(sequence.log_probabilities_V)
                if token in speaker.end_ids:
                    self.ended_by = "end of text"
                    break
                self.tokens.append(token)
                self._weights_TE.append(sequence.weights_E)
                if piece := stream.add(token):
                    yield piece
                if len(self.tokens) == self._max_new_tokens:
                    self.ended_by = "max_new_tokens"
                    break
                speaker.step([sequence], [token])
                if not sequence.has_room:
                    self.ended_by = "context"
        if rest := stream.end():
            yield rest

    def mean_weights(self) -> dict[str, float]:
        """Return each expert's mean weight over the tokens so far, by its name."""
        means_E = np.mean(self._weights_TE, axis=0) if self._weights_TE else []
        return {name: float(w) for name, w in zip(self.speaker.experts, means_E, strict=False)}

    def num_led(self) -> dict[str, int]:
        """Return at how many tokens each expert weighed most; the first of those that tie."""
        led = [int(weights_E.argmax()) for weights_E in self._weights_TE]
        return {name: led.count(e) for e, name in enumerate(self.speaker.experts)}
