"""Which models and ensembles of an experiment can be asked, and how each reads text."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdel_assets.errors import unknown_name_message
from mdel_assets.line.lineage import Lineage
from mdel_assets.serving.refusals import RefusedRequestError

if TYPE_CHECKING:
    from mdel_assets.generation.speakers import Speakers


class Catalogue:
    """Names and tokenizers, without any weights; one thread uses it.

    ``loaded`` returns the fingerprint of a model that is loaded, which may be made anew meanwhile.
    """

    def __init__(
        self, lineage: Lineage, speakers: "Speakers", *, loaded: Callable[[str], str | None]
    ) -> None:
        self._lineage = lineage
        self._speakers = speakers
        self._loaded = loaded
        # By name, each with the fingerprint of its model.
        self._tokenizers: dict[str, tuple[str, Any]] = {}

    def models(self) -> list[dict[str, Any]]:
        """Return what ``/v1/models`` lists: all that is made and can speak."""
        return [self._object(name) for name in self._speakers.names()]

    def model(self, name: str) -> dict[str, Any]:
        """Return what ``/v1/models/NAME`` tells.

        Raises:
            RefusedRequestError: nothing has that name.

        """
        self._require(name)
        return self._object(name)

    def tokenizer(self, name: str) -> Any:
        """Return the tokenizer of a model as it is loaded, or of an ensemble's experts.

        Raises:
            RefusedRequestError: nothing has that name.

        """
        held, tokenizer = self._tokenizers.get(name, ("", None))
        if tokenizer is not None and held == self._loaded(name):
            return tokenizer
        self._require(name)
        made = self._speakers.fingerprint(name)
        if tokenizer is None or held != made:
            tokenizer = self._speakers.tokenizer(name)
            self._tokenizers[name] = made, tokenizer
        return tokenizer

    def _require(self, name: str) -> None:
        if name not in (known := self._speakers.names()):
            message = unknown_name_message("model", name[:100], known)
            if name in self._lineage.experiment.model_keys:
                message = f"{name} is not made. mdel status says what is missing, and why."
            raise RefusedRequestError(message, status=404, code="model_not_found", param="model")

    def _object(self, name: str) -> dict[str, Any]:
        store = self._lineage
        is_model = name in self._lineage.experiment.model_keys
        made = store.model(name) if is_model else store.artifact("seed_model")
        return {
            "id": name,
            "object": "model",
            "created": int(made.made_at()),
            "owned_by": self._lineage.experiment.name,
        }
