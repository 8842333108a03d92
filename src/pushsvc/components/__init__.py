"""Components: functions and classes of a user's module that handle events of the log, each event once.

``registry``, ``context`` and ``executor`` run in a child process without Redis; ``worker`` and what it uses keep the
leases, read the logs and commit what handlers did.
"""
