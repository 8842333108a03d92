from pathlib import Path

from pushsvc.broker.system_memory import usable_memory


def groups(root: Path, membership: str, **limits: str) -> Path:
    """Make files as of a kernel; names of limits have __ for a slash."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(membership)
    for place, text in limits.items():
        file = root / "sys/fs/cgroup" / place.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_without_limits_it_is_the_memory_of_the_machine(tmp_path: Path) -> None:
    whole = usable_memory(tmp_path)
    assert whole > 10**8
    assert usable_memory(groups(tmp_path, "0::/a\n", a__memory_max="max\n")) == whole


def test_the_lowest_limit_above_the_group_holds(tmp_path: Path) -> None:
    root = groups(tmp_path, "0::/a/b\n", memory_max="70000000\n", a__memory_max="50000000\n", a__b__memory_max="max\n")
    assert usable_memory(root) == 50_000_000


def test_a_container_that_sees_its_group_as_the_top(tmp_path: Path) -> None:
    assert usable_memory(groups(tmp_path, "0::/system/c\n", memory_max="60000000\n")) == 60_000_000


def test_groups_of_version_1(tmp_path: Path) -> None:
    root = groups(tmp_path, "5:cpu,memory:/c\n4:pids:/\n", memory__c__memory_limit_in_bytes="40000000\n")
    assert usable_memory(root) == 40_000_000
