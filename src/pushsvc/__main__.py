"""Entry point. Processes that run on gevent are patched before their other imports."""

import sys

from pushsvc.supervisor.lifeline import end_with_parent


def main() -> None:
    """Run the command line."""
    role = sys.argv[1] if len(sys.argv) > 1 else ""
    if role.startswith("_"):
        end_with_parent()
    if role in ("_web", "_aggregator", "_worker"):
        from gevent import monkey

        monkey.patch_all()
        from pushsvc.metrics import name_files_by_slot

        name_files_by_slot()
    from pushsvc.cli.main import program

    program(prog_name="pushsvc")


if __name__ == "__main__":
    main()
