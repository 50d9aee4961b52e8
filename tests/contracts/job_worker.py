"""A process that runs jobs, for tests that kill it, stop it, or let several compete.

Usage: python -m tests.contracts.job_worker DATABASE_URL SCHEMA ACTION [ARGUMENT]
"""

import sys
import threading

from common.database import Database
from common.jobs import JobRunner, JobStore, Lease, LeaseLost
from tests.contracts.jobs import LEASE_S, publish


def _hang(lease: Lease) -> None:
    lease.update(progress=0.5, message="half done")
    print("running", lease.attempt, flush=True)
    threading.Event().wait()


def main(arguments: list[str]) -> None:
    """Does one action."""
    url, schema, action, *rest = arguments
    store = JobStore(Database(url, schema=schema))
    if action == "hang":
        JobRunner(store, {"work": _hang}, lease_s=LEASE_S).start()
        threading.Event().wait()
    elif action == "pause":
        # Paused from outside between the claim and the publication.
        lease = store.claim("paused", ["work"], LEASE_S)
        assert lease is not None
        print("claimed", flush=True)
        sys.stdin.readline()
        try:
            lease.complete(lambda session: publish(session, "paused"))
            print("published", flush=True)
        except LeaseLost:
            print("lost", flush=True)
    elif action == "claim":
        print("ready", flush=True)
        sys.stdin.readline()
        while lease := store.claim(rest[0], ["work"], 60):
            print(lease.job.name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
