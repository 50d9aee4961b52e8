"""Durable jobs: long tasks that survive a crash of the process that runs them. Each job has one writer at a time."""

from common.jobs.job import Job, JobError, JobState
from common.jobs.lease import Lease, LeaseLost
from common.jobs.runner import JobRunner
from common.jobs.store import JobStore

__all__ = ["Job", "JobError", "JobRunner", "JobState", "JobStore", "Lease", "LeaseLost"]
