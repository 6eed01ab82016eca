"""Requests are traced where OpenTelemetry's package for ASGI is installed."""

from __future__ import annotations

import pytest

from runtime.server.served_model import ServedModel
from tests.runtime.server.conftest import serving

pytest.importorskip("opentelemetry.instrumentation.asgi", reason="needs opentelemetry-instrumentation-asgi")
export = pytest.importorskip("opentelemetry.sdk.trace.export", reason="needs opentelemetry-sdk")


@pytest.mark.tried
def test_a_request_is_a_span_without_its_texts(toy_models: list[ServedModel]) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    with serving(toy_models) as server:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        answer = server.post("/v1/embeddings", {"input": "passage"}, headers={"traceparent": parent})
        assert answer.status_code == 200
        assert server.post("/embed", {}).status_code == 400
    named = {span.name: span for span in spans.get_finished_spans() if span.kind is trace.SpanKind.SERVER}
    (first,) = [span for name, span in named.items() if "/v1/embeddings" in name]
    assert first.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert 200 in first.attributes.values()
    assert any(400 in span.attributes.values() for span in named.values())
    assert "passage" not in "".join(span.to_json() for span in spans.get_finished_spans())
