"""What ``/metrics`` tells, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Meters:
    """The figures of one server.

    Labels hold names of models that exist, or nothing, never what a request made up.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "mdel_requests",
            "Requests answered; status 499: the client left before the end.",
            ["model", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "mdel_request_seconds",
            "Seconds from a request's head to the end of its answer.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "mdel_first_token_seconds",
            "Seconds from a sequence's place in the queue to its first token.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "mdel_prompt_tokens", "Tokens of prompts read.", ["model"], registry=registry
        )
        self.generated_tokens = Counter(
            "mdel_generated_tokens", "Tokens written.", ["model"], registry=registry
        )
        self.sequences_ended = Counter(
            "mdel_sequences_ended",
            "Sequences that ended, by reason: stop, length, cancelled or failed.",
            ["model", "reason"],
            registry=registry,
        )
        self.sequences_running = Gauge(
            "mdel_sequences_running", "Sequences that are decoded now.", registry=registry
        )
        self.sequences_waiting = Gauge(
            "mdel_sequences_waiting", "Sequences that wait in the queue.", registry=registry
        )
        self.models_loaded = Gauge(
            "mdel_models_loaded", "Models and ensembles in memory.", registry=registry
        )
        self.weight_bytes = Gauge(
            "mdel_weight_bytes",
            "Bytes of the weights in memory; what models share counts once.",
            registry=registry,
        )
        self.cache_bytes = Gauge(
            "mdel_cache_bytes",
            "Bytes set aside for the key-value caches of running sequences.",
            registry=registry,
        )

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self.registry)
