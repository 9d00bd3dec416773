"""The API against its own description: whatever fits it, or nearly fits it, is answered as it says.

schemathesis makes the calls from `/openapi.json`, half of them wrong on purpose. The two streams that
never end are left to their own tests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import redis
import schemathesis
from http_kit import ORDER, Served, add_gateway, key_of, serve, settings_for
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.generation import GenerationMode

from producer.http.auth import OPERATE, SCOPES
from producer.http.openapi import describe
from tests.factories import GATEWAY, add_campaign, open_gate

DESCRIPTION = describe()
ENDLESS = {"/v1/status/stream", "/v1/operator/summary/stream"}
OPERATIONS = [
    (method, path)
    for path, methods in DESCRIPTION["paths"].items()
    for method in methods
    if path not in ENDLESS
]
EXAMPLES = 12  # of each operation and kind; the whole takes half a minute
# What must never be read in an answer, whatever was asked.
INTERNALS = re.compile(
    r"Traceback|psycopg|(?<!\w)(SELECT|INSERT INTO|UPDATE) |FCALL|ERR |redis\.|\.py\"|pg_catalog"
)
# What a lever that was pulled on the way makes of later calls; no other 5xx is right in calm.
REFUSALS = {"issuance_paused", "reduced_capacity"}
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.missing_required_header,
]


@pytest.fixture(scope="module")
def api(servers: Any, migrated_template: str) -> Iterator[Served]:
    """An API with a campaign, some orders, and a worker beside it."""
    server = servers.dsn.rpartition("/")[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE described TEMPLATE {migrated_template}")
    with redis.Redis.from_url(servers.valkey_url) as client:
        client.flushall()
    dsn = f"{server}/described"
    add_campaign(dsn, stock={"tea": 100_000}, orders_per_user_max=100_000)
    add_gateway(dsn, GATEWAY, [*SCOPES, OPERATE])
    open_gate(servers.valkey_url)
    with serve(settings_for(dsn, servers.valkey_url, wait_max_s=1)) as served, served.worker():
        served.post({**ORDER, "user_id": "u-1"}, key="k-1")
        yield served


@pytest.fixture(scope="module")
def schema(api: Served) -> Any:
    return schemathesis.openapi.from_url(f"{api.url}/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_call_is_answered_as_described(
    method: str, path: str, mode: GenerationMode, api: Served, schema: Any
) -> None:
    operation = schema[path][method]
    headers = {"authorization": f"Bearer {key_of(GATEWAY)}"}

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: Any) -> None:
        response = case.call(headers=headers, timeout=10)
        if response.status_code >= 500:
            assert response.status_code == 503, response.text
            assert response.json()["code"] in REFUSALS, response.text
        case.validate_response(response, checks=CHECKS, headers=headers)
        if not path.startswith(("/console", "/metrics", "/openapi.json", "/problems")):
            assert not INTERNALS.search(response.text), response.text

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "only of what takes nothing can nothing be wrong"
