"""What ``/metrics`` says, as numbers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.server.running_server import RunningServer


class Scrape:
    """One reading; names are asked for without their prefix."""

    def __init__(self, text: str) -> None:
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    @classmethod
    def of(cls, server: RunningServer, **headers: str) -> Scrape:
        with server.http() as client:
            response = client.get("/metrics", headers=headers)
        assert response.status_code == 200, response.text
        return cls(response.text)

    def value(self, name: str, **labels: str) -> float:
        """Sum of the samples with these labels, 0 where there is none."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"loramux:{name}" and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        """All values of a label."""
        return {s.labels[label] for s in self.samples if s.name == f"loramux:{name}"}
