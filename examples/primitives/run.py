"""Start a server, let each pair of scripts talk through it, and stop it: ``python examples/primitives/run.py``."""

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
PORT = os.environ.get("PORT", "8765")
URL = f"http://127.0.0.1:{PORT}"


def script(name: str, *arguments: str) -> None:
    """Run one script with its output before our eyes."""
    print(f"\n$ python {name}.py {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments], check=True, timeout=300)


def main() -> None:
    """Publish and watch by each of the primitives."""
    script("publish_socket", URL, "socket", '{"key": "kitchen", "celsius": 21.5}')
    script("watch_socket", URL, "socket", "1")
    script("publish_http", URL, "http", "3")
    script("watch_http", URL, "http", "1")
    script("publish_threads", URL, "threads", "200")
    script("watch_threads", URL, "5", "threads", "socket")
    script("publish_processes", URL, "processes", "4")
    script("watch_processes", URL, "processes", "5")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pushsvc", "serve", "--port", PORT, "--data-dir", folder]
        with subprocess.Popen(command) as server:
            try:
                while True:
                    time.sleep(0.2)
                    try:
                        urllib.request.urlopen(f"{URL}/readyz")
                        break
                    except OSError:
                        if server.poll() is not None:
                            raise SystemExit("the server did not start") from None
                main()
            finally:
                server.terminate()
