"""Where webhooks may be sent, and what signs them."""

import pytest

from pushsvc.alerts.rule import InvalidAlert
from pushsvc.alerts.webhook import WebhookPolicy, read_secret, signed_headers

SECRET = b"0123456789abcdef01234567"
POLICY = WebhookPolicy(("hooks.example", "*.chat.example", "10.0.0.5"), SECRET)


@pytest.mark.parametrize(
    "url",
    ["https://hooks.example/a?b=c", "https://HOOKS.example:8443", "https://a.chat.example/x", "http://10.0.0.5:9000/",
     "http://hooks.example/"],
)  # fmt: skip
def test_a_host_of_the_settings_is_allowed(url: str) -> None:
    assert POLICY.check(url).hostname


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://other.example/", "not in the setting webhook_hosts"),
        ("https://chat.example/", "not in the setting webhook_hosts"),
        ("https://hooks.example.evil.example/", "not in the setting"),
        ("https://hooks.example@evil.example/", "without a password"),
        ("https://evilhooks.example/", "not in the setting"),
        ("http://a.chat.example/", "http is only for hosts that webhook_hosts names"),
        ("ftp://hooks.example/", "a URL such as"),
        ("//hooks.example/", "a URL such as"),
        ("https://hooks.example:0/", "a URL such as"),
        ("https://hooks.example:99999/", "a URL such as"),
        ("https://hooks.example/\r\nX: y", "a URL such as"),
        ("https://hooks.example/a b", "a URL such as"),
        ("https://[::1", "a URL such as"),
        ("https:///x", "a URL such as"),
    ],
)
def test_another_host_or_form_is_refused(url: str, text: str) -> None:
    with pytest.raises(InvalidAlert, match=text) as caught:
        POLICY.check(url)
    assert caught.value.member == "webhook"


def test_without_a_secret_there_are_no_webhooks() -> None:
    with pytest.raises(InvalidAlert, match="webhook_secret is missing"):
        WebhookPolicy(("hooks.example",)).check("https://hooks.example/")


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks, libraries' tests."""
    secret = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_c2hvcnQ=", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_%%%"])
def test_a_weak_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        read_secret(text)
