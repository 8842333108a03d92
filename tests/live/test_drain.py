"""The orderly end of a web process under SIGTERM."""

import socket
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

from support.waiting import until

HALF = (
    b"POST /v1/topics/%b/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 7\r\nExpect: 100-continue\r\n\r\n"
)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_sigterm_waits_for_requests_and_not_for_idle_connections(stack, topic):
    stack.start_web("--drain", "600")  # Stack.stop gives up long before
    idle = HTTPConnection("127.0.0.1", stack.port)
    idle.request("GET", "/livez")
    assert idle.getresponse().read()
    with socket.create_connection(("127.0.0.1", stack.port)) as producer, ThreadPoolExecutor(1) as pool:
        producer.sendall(HALF % topic.encode())
        assert producer.recv(100).startswith(b"HTTP/1.1 100 ")
        ending = pool.submit(stack.stop, "web")
        until(lambda: not accepts(stack.port))
        producer.sendall(b'{"n":1}')
        assert producer.recv(1000).startswith(b"HTTP/1.1 202 ")
        assert ending.result() == 0
    idle.close()
