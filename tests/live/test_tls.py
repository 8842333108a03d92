"""TLS through the same server: publishing, statistics, streams."""

import json
import ssl
import subprocess
from http.client import HTTPSConnection

import pytest

from support.waiting import DEADLINE, until


@pytest.fixture
def files(tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def test_publishing_and_streams_work_over_tls(stack, topic, files):
    certificate, key = files
    stack.start_aggregator()
    stack.start("web", "web", "--port", str(stack.port), "--certfile", str(certificate), "--keyfile", str(key))
    until(lambda: "pushsvc is ready: https://" in stack.output("web") or stack.ended("web"))
    context = ssl.create_default_context(cafile=str(certificate))
    producer = HTTPSConnection("localhost", stack.port, timeout=DEADLINE, context=context)
    stream = HTTPSConnection("localhost", stack.port, timeout=DEADLINE, context=context)
    stream.request("GET", f"/v1/topics/{topic}/stats", headers={"Accept": "text/event-stream"})
    response = stream.getresponse()
    assert response.status == 200
    for number in range(3):
        body = json.dumps({"n": number})
        producer.request("POST", f"/v1/topics/{topic}/events", body, {"Content-Type": "application/json"})
        answer = producer.getresponse()
        assert (answer.status, json.loads(answer.read())["last_offset"]) == (202, number + 1)
    seen = b""
    while b'"offset":3' not in seen:
        seen += response.read1()
    assert stack.stop("web") == 0
    rest = b""
    while piece := response.read1():
        rest += piece
    assert b"retry: " in seen + rest
    assert rest.endswith(b": the server is restarting\n")


def test_unusable_certificate_is_named_in_the_error(stack, tmp_path, files):
    certificate, key = files
    for number, (arguments, said) in enumerate([
        (["--certfile", str(tmp_path / "none.pem")], "none.pem: No such file or directory"),
        (["--certfile", str(certificate)], "cert.pem: not a certificate and its unencrypted private key"),
        (["--certfile", str(key), "--keyfile", str(key)], "key.pem: not a certificate and its unencrypted private key"),
        (["--keyfile", str(key)], "keyfile needs certfile"),
    ]):  # fmt: skip
        name = f"web{number}"
        stack.start(name, "web", "--port", str(stack.port), *arguments)
        until(lambda name=name: stack.ended(name))
        assert said in stack.output(name)
        assert "Traceback" not in stack.output(name)
