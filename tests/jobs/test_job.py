"""Jobs: results, failures, progress."""

from __future__ import annotations

import operator
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest

from pushsvc import jobs
from pushsvc.client import Client
from support.jobs import ONE, TABLE, TEN, TWO, total
from support.waiting import until


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_the_order_of_the_rows_or_merged(processes):
    pool = jobs.Pool(processes)
    assert jobs.run(TEN, total, pool=pool) == [total(TABLE[start : start + 100]) for start in range(0, 1_000, 100)]
    assert jobs.run(TEN, lambda table: table["x"].sum(), merge=operator.add, pool=pool) == total(TABLE)
    assert jobs.run(TABLE, total, pool=pool) == [total(TABLE)]


def test_a_small_class_of_the_script_comes_back_as_that_class():
    class Extent:
        def __init__(self, table):
            self.low, self.high = table["x"].min(), table["x"].max()

    found = jobs.run(TEN, Extent, pool=TWO)
    assert {type(one) for one in found} == {Extent}
    assert [one.low for one in found] == [n / 8 for n in range(0, 1_000, 100)]


def test_statistics_have_the_same_bits_on_one_and_on_two_processes(tmp_path):
    chance = np.random.default_rng(1)
    table = pd.DataFrame({
        "shop": chance.choice(list("abcd"), 20_000), "amount": chance.lognormal(3, 1, 20_000),
        "user": chance.integers(0, 900, 20_000).astype(str),
    })  # fmt: skip
    table.to_csv(tmp_path / "sales.csv", index=False)
    source = jobs.Csv(tmp_path / "sales.csv", 50_000)
    one, two = (
        jobs.statistics(source, ["amount"], by="shop", distinct=["user"], percents=[95], pool=jobs.Pool(n))
        for n in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    found = two[(two["field"] == "amount") & two["key"].notna()].set_index("key")
    expected = (
        pd.read_csv(tmp_path / "sales.csv").groupby("shop")["amount"].agg(["count", "sum", "mean", "min", "max", "std"])
    )
    expected.index = expected.index.astype(object)
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_names=False, check_dtype=False, rtol=1e-13)
    users = two[(two["field"] == "user") & two["key"].notna()].set_index("key")["distinct"]
    assert users.tolist() == table.groupby("shop")["user"].nunique().tolist()


def test_large_results_take_the_way_through_a_file():
    found = jobs.run(
        TEN, lambda table: np.repeat(table["x"].to_numpy(), 1_000), merge=lambda a, b: np.append(a, b), pool=TWO
    )
    np.testing.assert_array_equal(found, np.repeat(TABLE["x"], 1_000))


def test_columns_of_numbers_cannot_be_written_to():
    with pytest.raises(jobs.JobFailed, match="read-only"):
        jobs.run(TABLE[["x"]], lambda table: table["x"].to_numpy().fill(0), pool=TWO)


# -- failures


def test_a_partition_that_fails_is_named_with_its_traceback():
    def work(table):
        return 1 / (table.index[0] - 500)

    with pytest.raises(jobs.JobFailed, match="rows 500 to 599: ZeroDivisionError: ") as raised:
        jobs.run(TEN, work, pool=ONE)
    (failure,) = raised.value.failures
    assert failure.partition == "rows 500 to 599"
    assert "in work" in failure.traceback
    assert failure.traceback in raised.value.__notes__


def test_failures_may_be_counted():
    def work(table):
        if table.index[0] % 200:
            raise LookupError("odd")
        return 1

    job = jobs.Job(TEN, work, merge=operator.add, on_error="count", pool=ONE)
    assert job.run() == 5
    assert {failure.error for failure in job.report.failures} == {"LookupError: odd"}
    with pytest.raises(jobs.JobFailed, match="every partition failed"):
        jobs.run(TEN, lambda _: 1 / 0, on_error="count", pool=ONE)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda _: threading.Lock(), "the result, of type lock, cannot be pickled"),
        (lambda _: (n for n in range(3)), "the result, of type generator, cannot be pickled"),
        (lambda table: table["no"], "KeyError: 'no'"),
        (lambda _: sys.exit("enough"), "SystemExit: enough"),
    ],
)
def test_a_result_that_is_of_no_use_is_reported(function, problem):
    with pytest.raises(jobs.JobFailed, match=problem):
        jobs.run(TEN, function, pool=ONE)


def test_a_function_that_cannot_be_sent_is_refused():
    lock = threading.Lock()
    with pytest.raises(jobs.JobError, match="the function cannot be sent to another process"):
        jobs.run(TEN, lambda _: lock.locked())


def test_a_table_that_cannot_be_sent_is_refused_and_a_job_runs_once():
    with pytest.raises(jobs.JobError, match="the table cannot be cut: TypeError: cannot pickle"):
        jobs.run(pd.DataFrame({"x": [threading.Lock()]}), len)
    job = jobs.Job(TABLE, len, pool=jobs.Pool(1))
    assert job.run() == [1_000]
    with pytest.raises(ValueError, match="a job runs once"):
        job.run()


def test_a_merge_that_fails_ends_the_job():
    with pytest.raises(jobs.JobFailed, match="the results cannot be merged: ZeroDivisionError"):
        jobs.run(TEN, total, merge=lambda a, b: 1 / 0, pool=ONE)


def test_bad_rows_of_a_csv_file_are_named_by_their_lines(tmp_path):
    (tmp_path / "t.csv").write_text("key,x\n" + "a,1\n" * 100 + "b,2,3\n" + "a,1\n" * 100)
    source = jobs.Csv(tmp_path / "t.csv", 200)
    with pytest.raises(jobs.JobFailed, match=r"t.csv, lines 52 to 101|t.csv, lines 102 to 151"):
        jobs.statistics(source, ["x"], by="key", pool=ONE)
    (tmp_path / "t.csv").write_text("key,x\na,1\nb,much\n")
    with pytest.raises(jobs.JobFailed, match=r"t.csv, lines 2 to 3: ValueError: could not convert string to float"):
        jobs.statistics(tmp_path / "t.csv", ["x"], by="key", pool=ONE)
    with pytest.raises(jobs.JobFailed, match=r"ValueError: there is no column 'y'; the columns are key, x"):
        jobs.statistics(tmp_path / "t.csv", ["y"])
    skipping = jobs.Csv(tmp_path / "t.csv", options={"on_bad_lines": "skip"})
    assert len(jobs.run(skipping, len, pool=ONE)) == 1


def test_a_table_without_rows_has_a_result(tmp_path):
    (tmp_path / "t.csv").write_text("key,x\n")
    found = jobs.statistics(tmp_path / "t.csv", ["x"], by="key", pool=jobs.Pool(1))
    assert found["count"].tolist() == [0, 0]
    (tmp_path / "t.csv").write_text("key,x\na,1")
    found = jobs.statistics(tmp_path / "t.csv", ["x"], by="key", pool=jobs.Pool(1))
    assert found["count"].tolist() == [1, 1, 1, 1]


def test_a_backend_that_is_not_installed_is_named():
    with pytest.raises(jobs.JobFailed, match="nothing"):
        jobs.run(TEN, total, pool=jobs.Pool(2, "nothing"))


def test_another_backend_of_joblib_runs_the_same_job():
    assert jobs.run(TEN, total, merge=operator.add, pool=jobs.Pool(2, "threading")) == total(TABLE)


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"attempts": 0}])
def test_a_pool_without_processes_is_refused(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        jobs.Pool(**wrong)


# -- progress


def newest(server, name):
    events = server.get(f"/v1/topics/job.{name}/latest").json()["events"]
    return events[0] if events else {}


def test_partial_results_are_there_for_a_page_that_opens_late(shared_server, topic, tmp_path):
    def work(table):
        until(lambda: table.index[0] < 500 or (tmp_path / "go").exists())
        return table["x"].sum()

    with Client(shared_server.url) as client:
        job = jobs.Job(TEN, work, merge=operator.add, show=lambda x: {"total": x}, name=topic, to=client, pool=TWO)
        found = []
        thread = threading.Thread(target=lambda: found.append(job.run()))
        thread.start()
        partial = until(lambda: (event := newest(shared_server, topic)).get("finished") == 5 and event)
        half = total(TABLE[:500])
        assert (partial["state"], partial["done"], partial["total"], partial["unit"]) == ("running", 500, 1_000, "rows")
        assert (partial["partitions"], partial["failed"], partial["repeated"]) == (10, 0, 0)
        assert partial["result"]["total"] <= half
        (tmp_path / "go").touch()
        thread.join()
    last = newest(shared_server, topic)
    assert (last["state"], last["done"], last["remaining"]) == ("done", 1_000, 0)
    assert last["result"] == {"total": found[0]} == {"total": total(TABLE)}


def test_a_failed_job_says_why(shared_server, topic):
    with Client(shared_server.url) as client, pytest.raises(jobs.JobFailed):
        jobs.run(TABLE, lambda _: 1 / 0, name=topic, to=client, pool=jobs.Pool(1))
    last = newest(shared_server, topic)
    assert (last["state"], last["error"]) == ("failed", "rows 0 to 999: ZeroDivisionError: division by zero")


def test_a_job_whose_file_is_no_table_says_so(shared_server, topic, tmp_path):
    (tmp_path / "t.csv").touch()
    with Client(shared_server.url) as client, pytest.raises(jobs.JobError):
        jobs.run(tmp_path / "t.csv", total, name=topic, to=client)
    last = newest(shared_server, topic)
    assert (last["state"], last["error"]) == ("failed", "t.csv is empty, it has not even a header")


def test_a_cancelled_job_says_so_and_a_large_result_is_left_out(shared_server, topic):
    with Client(shared_server.url) as client:
        jobs.run(TABLE, lambda _: "x" * 50_000, show=lambda x: x, merge=max, name=topic, to=client, pool=jobs.Pool(1))
        last = newest(shared_server, topic)
        assert (last["state"], last["note"]) == ("done", "the result has 50002 bytes, more than 48000")
        job = jobs.Job(TABLE, lambda _: time.sleep(600), name=f"{topic}.2", to=client, pool=jobs.Pool(1))
        job.cancel()
        with pytest.raises(jobs.JobCancelled):
            job.run()
    assert newest(shared_server, f"{topic}.2")["state"] == "cancelled"
