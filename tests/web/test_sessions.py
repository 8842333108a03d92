"""The list of revoked subjects, in a process that has just started."""

from __future__ import annotations

import jwt

from pushsvc.auth.access import Access
from pushsvc.auth.grants import read_grants
from pushsvc.auth.tokens import Issuer, Verifier, read_key
from pushsvc.broker.broker import Broker
from pushsvc.broker.revocations import RevocationStore
from pushsvc.system_clock import now_ms
from pushsvc.web.app import create_app
from support.ports import free_port

SECRET = "a secret of more than thirty-two bytes"


def access() -> Access:
    anonymous = read_grants({"subscribe": ["open"]})
    return Access(Verifier([Issuer([read_key(SECRET, "HS256")], leeway=0)]), anonymous=anonymous)


def bearer(**claims: object) -> dict[str, str]:
    claims = {"exp": now_ms() / 1_000 + 600, "sub": "u42", "pushsvc": {"subscribe": [">"], "manage": [">"]}} | claims
    return {"Authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


def test_without_the_list_no_token_is_accepted() -> None:
    broker = Broker(f"redis://127.0.0.1:{free_port()}/0")
    client = create_app(broker, access=access()).test_client()
    refused = client.get("/v1/topics/a/events", headers=bearer())
    assert (refused.status_code, refused.json["type"]) == (503, "urn:pushsvc:problem:broker-unavailable")
    stream = client.get("/v1/topics/a/events?format=sse", headers=bearer())
    assert stream.status_code == 200
    assert stream.data.startswith(b"retry: ")
    broker.close()


def test_the_list_is_read_before_the_first_token_is_accepted(broker: Broker) -> None:
    broker.check_layout()
    broker.revocations.revoke("u42", 60)
    client = create_app(broker, access=access()).test_client()
    old, fresh = bearer(iat=now_ms() / 1_000 - 5), bearer(iat=now_ms() / 1_000 + 1)
    assert client.get("/v1/topics", headers=old).status_code == 401
    assert client.get("/v1/topics", headers=bearer()).status_code == 401
    assert client.get("/v1/topics", headers=fresh).status_code == 200


def test_without_room_nobody_is_revoked_and_the_answer_says_so(broker: Broker) -> None:
    broker.check_layout()
    broker.revocations = RevocationStore(broker.keys, broker.connections, most=1)
    client = create_app(broker, access=access()).test_client()
    admin = bearer(sub="admin")
    assert client.delete("/v1/sessions?sub=a", headers=admin).status_code == 200
    refused = client.delete("/v1/sessions?sub=b", headers=admin)
    assert (refused.status_code, refused.json["type"]) == (507, "urn:pushsvc:problem:too-many-revocations")
    assert client.get("/v1/topics", headers=bearer(sub="b")).status_code == 200


def test_without_authorization_there_is_nothing_to_revoke(broker: Broker) -> None:
    assert create_app(broker).test_client().delete("/v1/sessions?sub=a").status_code == 400
