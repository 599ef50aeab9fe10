"""Run jobs that each write one line of results, and continue after an interruption."""

import hashlib
import json
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from service.records.events import EventLog
from trainables.config import TrialConfig
from trainables.malloc import keep_freed_memory

__all__ = ["ConfigJob", "Job", "append", "config_key", "run"]


class Job(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, Any]: ...
    def run(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ConfigJob(ABC):
    """The training of one configuration.

    Args:
        name: Identifies the job in the results.
        labels: What the tables group by.
    """

    name: str
    labels: Mapping[str, Any]
    config: TrialConfig

    @property
    def key(self) -> str:
        return config_key(self.config)

    @abstractmethod
    def run(self) -> dict[str, Any]:
        """The job's results, and its CPU seconds `cpu_s`."""


def config_key(config: TrialConfig) -> str:
    """16 hexadecimal digits that identify a training with its pruning, which a job's results depend on too.

    Only what differs from the defaults is hashed, so a field that is added later changes no existing key.
    """
    text = json.dumps(config.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def append(results: Path, event: str, **fields: Any) -> None:
    log = EventLog(results)
    log.append(event, **fields)
    log.close()


def run(jobs: Iterable[Job], results: Path, *, num_processes: int) -> list[str]:
    """Run the jobs that have no line in `results` yet; each job adds its line when it ends.

    Returns:
        One line for each job that raised an exception. The next call runs these jobs again.
    """
    done = {entry["job"]: entry["key"] for entry, _ in EventLog.read(results) if entry["event"] == "job"}
    jobs = list(jobs)
    for job in jobs:
        if done.get(job.name, job.key) != job.key:
            raise ValueError(
                f"{results}: must hold jobs of one configuration and length, got another one for {job.name}; choose "
                "another --results, or remove the file to train all jobs anew"
            )
    left = [job for job in jobs if job.name not in done]
    failures = []
    for count, (job, outcome) in enumerate(outcomes(left, num_processes), len(jobs) - len(left) + 1):
        if isinstance(outcome, BaseException):
            failures.append(f"{job.name}: {type(outcome).__name__}: {outcome}")
            continue
        append(results, "job", job=job.name, key=job.key, **job.labels, **outcome)
        print(f"[{count}/{len(jobs)}] {job.name}  {outcome['cpu_s']:g} s", flush=True)
    return failures


def outcomes(jobs: Sequence[Job], num_processes: int) -> Iterator[tuple[Job, dict[str, Any] | Exception]]:
    """Each job with its result or exception, in the order in which they end; one process means this one."""
    if num_processes == 1:
        prepare_process()
        for job in jobs:
            yield job, attempt(job)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with PyTorch's threads can hang
    pool = ProcessPoolExecutor(num_processes, mp_context=context, initializer=prepare_process)
    try:
        futures = {pool.submit(attempt, job): job for job in jobs}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool as error:
                raise ChildProcessError("a process was killed (out of memory?): run the same command again") from error
    finally:
        pool.shutdown(cancel_futures=True)


def attempt(job: Job) -> dict[str, Any] | Exception:
    try:
        return job.run()
    except Exception as error:
        return error


def prepare_process() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
