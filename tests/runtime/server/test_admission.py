from __future__ import annotations

import pytest

from runtime.server.admission import Admission
from runtime.server.request_errors import RequestError


def test_what_is_over_is_refused_until_others_leave() -> None:
    admission = Admission(max_tokens=100, max_bytes=1000, tokens_per_s=lambda: 10.0)
    with admission.enter() as first:
        first.take(tokens=60, size_bytes=10)
        with admission.enter() as second, pytest.raises(RequestError) as refused:
            second.take(tokens=41, size_bytes=20)
        assert refused.value.status == 429
        assert refused.value.headers() == {"retry-after": "3"}  # 60 tokens, half of them at 10 a second
        assert (admission.tokens, admission.size_bytes) == (60, 10)
        with admission.enter() as third:
            third.take(tokens=40)
    assert (admission.tokens, admission.size_bytes) == (0, 0)


def test_what_never_fits_is_another_error() -> None:
    admission = Admission(max_tokens=100, max_bytes=1000, tokens_per_s=lambda: 0.0)
    for needs in ({"tokens": 101}, {"size_bytes": 1001}):
        with admission.enter() as ticket, pytest.raises(RequestError) as refused:
            ticket.take(**needs)
        assert refused.value.status == 413
