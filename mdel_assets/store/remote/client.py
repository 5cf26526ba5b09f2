"""The client of an object store: its address, its few requests, and its errors in our words.

`obstore` does the requests: retries, multipart uploads, and conditional puts in S3, Google Cloud
Storage and Azure alike. It reads credentials from the environment; no address, log, record or job
holds any.
"""

import contextlib
import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from mdel_assets.errors import ExperimentError, ObjectStoreError, install_extra, transient

# The library reads these itself only where it is given no options.
_ALLOW_HTTP = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP", "AZURE_ALLOW_HTTP")
_SCHEMES = ("s3", "gs", "az", "file")
_PART_BYTES = 16 << 20
# Parts of one file on their way at the same time, in each direction.
_PARTS_AT_ONCE = 4
_FIRST_WAIT = timedelta(milliseconds=50)
_LONGEST_WAIT = timedelta(seconds=15)
_NUM_RETRIES = 12
_RETRY_FOR = timedelta(minutes=5)
# The library's own retries leave out answers that were cut off, and requests that change things.
_REFUSED = re.compile(r"\b40[0134] [A-Z]")
_NUM_ATTEMPTS, _ASK_AGAIN_SECONDS = 8, 60.0
# A read that stalls is begun anew.
_STALL = timedelta(seconds=60)

T = TypeVar("T")


class Listed(NamedTuple):
    """An object of a listing; ``version`` changes when the object is written again."""

    name: str
    size_bytes: int
    changed: datetime
    version: str


def checked_address(address: str) -> str:
    """Return the address of a store, without a slash at its end.

    Raises:
        ExperimentError: it is no address, or holds what may be a credential.

    """
    parts = urlsplit(address)
    if parts.scheme not in _SCHEMES or not (parts.netloc or parts.scheme == "file"):
        raise ExperimentError(
            f"MDEL_STORE is '{_without_secrets(address)}', which is no address of an object store: "
            f"expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or "
            f"file:///FOLDER."
        )
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ExperimentError(
            f"MDEL_STORE holds more than a place ({parts.scheme}://...): credentials do not belong "
            f"there, because jobs are given the address. Set them in the environment, as "
            f"docs/object_storage.md says."
        )
    return address.rstrip("/")


class Client:
    """The requests that artifacts need of one store."""

    def __init__(self, address: str) -> None:
        """Take a `checked_address`; nothing is asked of the store yet."""
        self.address = address

    @functools.cached_property
    def _store(self) -> Any:
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise ObjectStoreError(
                f"MDEL_STORE is {self.address}, which needs the library obstore: install the extra "
                f"'store' ({install_extra('store')})."
            ) from error
        if self.address.startswith("file:"):
            return from_url(self.address, mkdir=True)
        retries: Any = {
            "max_retries": _NUM_RETRIES,
            "backoff": {"init_backoff": _FIRST_WAIT, "max_backoff": _LONGEST_WAIT, "base": 2},
            "retry_timeout": _RETRY_FOR,
        }
        # A transfer may take hours; only one that stalls is given up.
        options: Any = {"read_timeout": _STALL, "timeout": timedelta(hours=6)}
        if any(os.environ.get(name) == "true" for name in _ALLOW_HTTP):
            options["allow_http"] = True
        with self._in_words("opening"):
            return from_url(self.address, client_options=options, retry_config=retries)

    def list(self, prefix: str) -> list[Listed]:
        """Return all objects whose names begin with the folders ``prefix``."""
        import obstore

        def ask() -> list[Listed]:
            pages = obstore.list(self._store, f"{prefix}/")
            return [_listed(entry) for page in pages for entry in page]

        return self._asked(f"listing {prefix}", ask)

    def size(self, name: str) -> int | None:
        """Return the bytes of an object; None where there is none."""
        import obstore

        try:
            found = self._asked(f"looking at {name}", lambda: obstore.head(self._store, name))
        except FileNotFoundError:
            return None
        return int(found["size"])

    def read(self, name: str) -> bytes | None:
        """Return a small object; None where there is none."""
        import obstore

        def ask() -> bytes:
            return bytes(obstore.get(self._store, name).bytes())

        try:
            return self._asked(f"reading {name}", ask)
        except FileNotFoundError:
            return None

    def parts(self, name: str, *, begin: int, size: int) -> Iterator[bytes]:
        """Yield an object's bytes from ``begin`` on, some parts at a time.

        Raises:
            FileNotFoundError: there is no such object.

        """
        import obstore

        starts = list(range(begin, size, _PART_BYTES))
        for first in range(0, len(starts), _PARTS_AT_ONCE):
            some = starts[first : first + _PARTS_AT_ONCE]
            lengths = [min(_PART_BYTES, size - start) for start in some]
            ask = functools.partial(
                obstore.get_ranges, self._store, name, starts=some, lengths=lengths
            )
            yield from (bytes(part) for part in self._asked(f"reading {name}", ask))

    def create(self, name: str, content: bytes) -> bool:
        """Write a small object that is not there yet; return False if it is, and leave it.

        A store without conditional puts overwrites it.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError

        def ask() -> bool:
            try:
                obstore.put(self._store, name, content, mode="create")
            except AlreadyExistsError:
                return False
            except NotSupportedError:
                obstore.put(self._store, name, content)
            return True

        return self._written(name, ask)

    def upload(self, name: str, path: Path) -> None:
        """Write a file of any size; the object is there once it is whole."""
        import obstore

        put = functools.partial(obstore.put, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        self._written(name, lambda: put(self._store, name, path))

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that are gone already are skipped."""
        import obstore

        for name in names:
            with contextlib.suppress(FileNotFoundError):
                delete = functools.partial(obstore.delete, self._store, name)
                self._asked(f"deleting {name}", delete)

    def _written(self, name: str, put: Callable[[], T]) -> T:
        try:
            return self._asked(f"writing {name}", put)
        except FileNotFoundError:
            raise ObjectStoreError(
                f"The object store {self.address} has no such bucket or container: {name} cannot "
                f"be written. Create it, or correct MDEL_STORE, then run the same command again."
            ) from None

    def _asked(self, what: str, ask: Callable[[], T]) -> T:
        """Return what ``ask`` returns; ask again where the library does not, as for a cut answer.

        Raises:
            FileNotFoundError: there is no such object.
            ObjectStoreError: in our words, without the requests, which may be signed.

        """
        began = time.monotonic()
        for attempt in itertools.count():
            with self._in_words(what):
                try:
                    return ask()
                except Exception as error:
                    is_late = time.monotonic() - began > _ASK_AGAIN_SECONDS
                    if is_late or attempt >= _NUM_ATTEMPTS or not _may_pass(error):
                        raise
            time.sleep(_FIRST_WAIT.total_seconds() * 2**attempt)
        raise AssertionError

    @contextlib.contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        """Turn the library's errors into ours, without the requests, which may be signed."""
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError:
            raise
        except (BaseError, OSError) as error:
            words = _without_secrets(str(error).split("\nDebug source")[0]).strip().rstrip(".")
            raise transient(
                ObjectStoreError(
                    f"The object store {self.address} failed while {what}: {words[:500]}. Check "
                    f"the network and the credentials in the environment, then run the same "
                    f"command again: what was transferred is not transferred again."
                )
            ) from None


def _listed(entry: Any) -> Listed:
    size, changed = entry["size"], entry["last_modified"]
    version = entry["e_tag"] or f"{changed.isoformat()} {size}"
    return Listed(entry["path"], size, changed, version)


def _may_pass(error: Exception) -> bool:
    from obstore.exceptions import GenericError

    # A request that is refused for what it is will be refused again.
    return isinstance(error, GenericError) and not _REFUSED.search(str(error))


def _without_secrets(words: str) -> str:
    """Leave out queries of addresses and their user names: both may hold credentials."""
    return re.sub(r"(://)[^/\s@]*@|\?[^\s\"')]*", r"\1", words)


def address_of(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return what ``MDEL_STORE`` names, if anything; raises as `checked_address`."""
    address = environment.get("MDEL_STORE")
    return checked_address(address) if address else None
