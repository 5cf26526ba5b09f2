"""Who may ask the server: keys from a file or the environment, compared in constant time."""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path

from mdel_assets.errors import ServingError

KEY_VARIABLE = "MDEL_API_KEY"
_MIN_LENGTH = 16


class ApiKeys:
    """The keys of which a request has to show one; without any, whoever asks is let in.

    Digests are held and compared, so that neither a traceback nor the time of a comparison tells
    anything about a key.
    """

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def let_in(self, authorization: str) -> bool:
        """Whether a header ``Authorization: Bearer KEY`` shows one of the keys."""
        if not self._digests:
            return True
        scheme, _, shown = authorization.partition(" ")
        digest = _digest(shown.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches) and scheme.lower() == "bearer"


def read_keys(file: Path | None, environment: Mapping[str, str]) -> ApiKeys:
    """Return the keys of ``file``, one a line, and of ``MDEL_API_KEY``.

    Raises:
        ServingError: the file cannot be read or has no key, or a key is too short.

    """
    keys = []
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ServingError(f"{file} cannot be read as a file of API keys: {error}.") from error
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise ServingError(f"{file} has no API key. Write one into each line.")
    if from_environment := environment.get(KEY_VARIABLE, "").strip():
        keys.append(from_environment)
    for key in keys:
        if len(key) < _MIN_LENGTH:
            raise ServingError(
                f"An API key has {len(key)} characters, at least {_MIN_LENGTH} are needed. "
                f"Make one with: openssl rand -hex 24"
            )
    return ApiKeys(keys)


def refuse_open_door(host: str, keys: ApiKeys) -> None:
    """Refuse to listen where other machines can ask, unless they have to show a key.

    Raises:
        ServingError: there is no key and ``host`` is not this machine's own address.

    """
    if keys or host == "localhost":
        return
    try:
        is_own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = False
    if not is_own:
        raise ServingError(
            f"Without an API key the server listens on this machine's own addresses alone, and "
            f"{host} is reached by others. Put keys into a file, one a line, and name it with "
            f"--api-key-file, or set {KEY_VARIABLE}; or leave --host out."
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
