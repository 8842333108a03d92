"""Look for known vulnerabilities in the locked dependencies, and for secrets in the files of the repository.

The exit code is 1 if there are any. Without a database of vulnerabilities it says so, and looks for secrets only.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path("requirements/dev.txt")  # has all that the others have
DATABASES = ("pypi", "osv")  # the first one that answers is asked
TIMEOUT = 40  # seconds for each; offline, connections may hang
LARGEST = 2_000_000  # bytes of a file that is searched
SECRETS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s+[A-Za-z0-9+/]{30}",
    "a signed token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a token of GitHub": r"\b(?:gh[oprsu]_[A-Za-z0-9]{36}|github_pat_\w{22,})",
    "a token of GitLab": r"\bglpat-[\w-]{20}",
    "a token of PyPI or npm": r"\b(?:pypi-AgE[\w-]{50,}|npm_[A-Za-z0-9]{36})",
    "a token of Slack": r"\bxox[abeprs]-[\w-]{10,}",
    "a key of Google": r"\bAIza[\w-]{35}",
    "a key of Stripe": r"\b[rs]k_live_[A-Za-z0-9]{20,}",
}


def vulnerabilities() -> list[str]:
    """Return the known vulnerabilities of the locked dependencies; say so if no database is reachable."""
    packages = next(filter(None, map(audited, DATABASES)), [])
    if not packages:
        print(f"NOT scanned for known vulnerabilities: no database is reachable ({' and '.join(DATABASES)} were asked)")
    return [
        f"{LOCK}: {package['name']} {package['version']}: {found['id']}, fixed in {found['fix_versions'] or 'none'}"
        for package in packages
        for found in package["vulns"]
    ]


def audited(database: str) -> list[dict[str, Any]]:
    """Return the packages of the lock that a database knows, with their vulnerabilities; none if it does not answer."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    command += ["--timeout", "10", "--vulnerability-service", database, "--format", "json", "--requirement", str(LOCK)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError):
        return []
    found = [package for package in packages if "skip_reason" not in package]
    if found:
        print(f"{database}: scanned {len(found)} of {len(packages)} dependencies for known vulnerabilities")
    return found


def secrets() -> list[str]:
    """Return the places of what looks like a secret in the tracked and new files; never the secret."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(listed, capture_output=True, text=True, check=False)
    if done.returncode:
        print("NOT searched for secrets: this is no working copy of git")
        return []
    patterns = {name: re.compile(pattern) for name, pattern in SECRETS.items()}
    found = []
    for name in sorted(filter(None, done.stdout.split("\0"))):
        path = Path(name)
        if not path.is_file() or path.stat().st_size > LARGEST:
            continue
        text = path.read_text(errors="replace")
        for what, pattern in patterns.items():
            for match in pattern.finditer(text):
                found.append(f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {what}")
    return found


def main() -> None:
    faults = [*secrets(), *vulnerabilities()]
    for fault in faults:
        print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
