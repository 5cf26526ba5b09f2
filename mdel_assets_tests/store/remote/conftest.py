"""An S3 server that tests share, and for each test an empty store behind a proxy of its own."""

import pytest

from mdel_assets_tests.s3_server import FaultyProxy, S3Server


@pytest.fixture(scope="session")
def s3():
    server = S3Server()
    yield server
    server.end()


@pytest.fixture
def proxy(s3, monkeypatch):
    proxy = FaultyProxy(s3)
    for key, value in proxy.environment.items():
        monkeypatch.setenv(key, value)
    yield proxy
    proxy.end()
    for name in s3.names():
        s3.delete(name)
