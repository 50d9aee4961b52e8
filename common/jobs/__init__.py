"""Durable jobs: long tasks that outlive the process that runs them, each with exactly one writer."""

from common.jobs.job import Job, JobError, JobState
from common.jobs.lease import Lease, LeaseLost
from common.jobs.runner import JobRunner
from common.jobs.store import JobStore

__all__ = ["Job", "JobError", "JobRunner", "JobState", "JobStore", "Lease", "LeaseLost"]
