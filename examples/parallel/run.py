"""Start the application, send it a large CSV file, follow the job, and compare the result with that of pandas.

python examples/parallel/run.py          ends when it has shown it
python examples/parallel/run.py --stay   goes on until Ctrl-C: open http://127.0.0.1:5070/ and send the file named there
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from amounts import amount

HERE = Path(__file__).parent
PORT = os.environ.get("PORT", "5070")
ROWS = int(os.environ.get("ROWS", "3000000"))
EUROPEAN = str.maketrans(",.", ".,")
URL = f"http://127.0.0.1:{PORT}"


def write_sales(path: Path) -> None:
    """Write a table of sales; it is the same in each run."""
    chance = np.random.default_rng(1)
    shops = ["north", "south", "east", "west", "airport", "station"]
    names = chance.choice(shops, ROWS, p=[0.3, 0.2, 0.2, 0.15, 0.1, 0.05])
    amounts = chance.lognormal(5, 1.5, ROWS)
    forms = ("{:.2f}", "€ {:,.2f}", "{:,.2f} EUR")
    with path.open("w", encoding="utf-8") as file:
        file.write("sale,shop,amount\n")
        for number, (shop, value) in enumerate(zip(names.tolist(), amounts.tolist(), strict=True)):
            text = forms[number % 3].format(value)
            if number % 3 == 2:  # a comma for the point, as in most of Europe
                text = text.translate(EUROPEAN)
            file.write(f'{number},{shop},"{text}"\n')


def send(path: Path) -> str:
    with path.open("rb") as file:
        headers = {"Content-Type": "text/csv", "Content-Length": str(path.stat().st_size)}
        request = urllib.request.Request(f"{URL}/jobs?by=shop&value=amount", file, headers)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)["job"]


def opened(url: str) -> Any:
    """Open a stream as a browser does: a server that is not ready is asked again."""
    for wait in (1, 2, 4, 8, 16):
        try:
            return urllib.request.urlopen(url, timeout=300)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
            time.sleep(wait)
    return urllib.request.urlopen(url, timeout=300)


def follow(job: str, processes: int) -> Iterator[dict[str, Any]]:
    """Yield the states of a job, as a page gets them, up to the last one."""
    url = f"{URL}/push/v1/topics/job.{job}.{processes}/latest?format=sse"
    with opened(url) as stream:
        for line in stream:
            if line.startswith(b"data:"):
                for event in json.loads(line[5:]).get("events", []):
                    yield event
                    if event["state"] != "running":
                        return


def main(path: Path) -> None:
    job = send(path)
    elapsed, states = {}, []
    for processes in (2, 1):
        for event in follow(job, processes):
            if processes == 2 and event["state"] == "running" and event.get("result"):
                total = next(row for row in event["result"]["data"] if row[:2] == [None, "amount"])
                print(f"{event['done'] / event['total']:4.0%}: {total[2]:,} rows, the sum so far {total[3]:,.2f}")
            states.append(event)
        if event["state"] != "done":
            raise SystemExit(f"the job {event['state']}: {event.get('error')}")
        elapsed[processes] = event["elapsed"]
    found = table(event["result"])
    if not all(table(state["result"]).equals(found) for state in states if state["state"] == "done"):
        raise SystemExit("the results on one and two processes differ")

    begun = time.perf_counter()
    sales = pd.read_csv(path, usecols=["shop", "amount"], dtype="str")
    expected = sales.assign(amount=sales["amount"].map(amount)).groupby("shop")["amount"]
    expected = expected.agg(["count", "sum", "mean", "min", "max", "std"])
    alone = time.perf_counter() - begun
    print(found.to_string(float_format="{:,.2f}".format))
    same = found[list(expected)].reindex(expected.index)
    exact = ["count", "min", "max"]
    assert (same[exact] == expected[exact]).all(axis=None), "counts and extremes are not those of pandas"
    np.testing.assert_allclose(same, expected, rtol=1e-12)
    print(f"equals pandas: {len(found)} shops, {found['count'].sum():,} rows")
    print(f"two processes {elapsed[2]:.1f} s, one {elapsed[1]:.1f} s, pandas with the file in memory {alone:.1f} s")


def table(result: dict[str, Any]) -> pd.DataFrame:
    """Return the statistics of the shops."""
    rows = pd.DataFrame(result["data"], columns=result["columns"])
    rows = rows[rows["key"].notna()].set_index("key")
    return rows[rows["field"] == "amount"].drop(columns="field").astype(float).astype({"count": int}).sort_index()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # what was started ends, too
    with tempfile.TemporaryDirectory() as folder:
        sales = Path(folder, "sales.csv")
        write_sales(sales)
        print(f"{sales}: {sales.stat().st_size / 1e6:.0f} MB")
        command = [sys.executable, "-m", "flask", "--app", "app", "run", "--port", PORT]
        # What the server has not removed when it ends, goes with the folder.
        environment = os.environ | {"PUSHSVC_DATA_DIR": str(Path(folder, "data")), "TMPDIR": folder}
        with (
            Path(folder, "requests.log").open("wb") as requests,
            subprocess.Popen(command, cwd=HERE, env=environment, stderr=requests) as server,
        ):
            try:
                for _ in range(600):
                    try:
                        urllib.request.urlopen(URL, timeout=10).close()
                        break
                    except OSError:
                        time.sleep(0.2)
                main(sales)
                if "--stay" in sys.argv:
                    server.wait()
            except KeyboardInterrupt:
                pass
            finally:
                server.terminate()
