"""A domain's text on kept cards: the record of a publication has a copy of the card beside it."""

import dataclasses
import shutil
from collections.abc import Iterable, Iterator

from mdel_assets.line.recorded_artifacts import Recorded
from mdel_assets.maintenance.domain_text import TextFound
from mdel_assets.publishing.card_texts import shows_text_of, without_texts
from mdel_assets.publishing.cards import CARD_NAME
from mdel_assets.store.records import Identity


@dataclasses.dataclass(frozen=True)
class TextOnCard(TextFound):
    """A kept card that shows a domain's text. The record beside it stays."""

    publication: Recorded = dataclasses.field(kw_only=True)

    def remove(self) -> None:
        """Record the publication anew, with a card that shows no text of any domain."""
        artifact, record = self.publication.artifact, self.publication.record
        identity = Identity(
            kind=record.kind,
            key=record.key,
            experiment=record.experiment,
            code_version=record.code_version,
            config=record.config,
            inputs=record.inputs,
        )
        with artifact.staging() as stage:
            for name in record.files:
                if (artifact.folder / name).is_file():
                    shutil.copyfile(artifact.folder / name, stage / name)
            card = without_texts(self.path.read_text("utf-8"))
            (stage / CARD_NAME).write_text(card, "utf-8")
            artifact.publish(stage, identity, counts=record.counts, details=record.details)


def cards_showing(domain: str, publications: Iterable[Recorded]) -> Iterator[TextOnCard]:
    """Yield the kept cards of ``publications`` that show text of ``domain``."""
    for entry in publications:
        path = entry.artifact.folder / CARD_NAME
        if path.is_file() and shows_text_of(path.read_text("utf-8"), domain):
            holds = "beginnings of its documents, on a kept card"
            yield TextOnCard(path, holds, publication=entry)
