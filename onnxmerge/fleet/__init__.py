"""Many models at many ratios, on one machine or on a cluster of Dask.

`jobs` says what to do, `store` where results are kept and what is done already, `task` what runs on a worker,
`cluster` how workers are reached, `running` puts them together, `page` shows the results. Only `cluster` and `running`
import Dask, which is the extra `fleet`.
"""

from onnxmerge.fleet.jobs import Job, jobs_of, read_jobs
from onnxmerge.fleet.outcome import Fleet, Outcome

__all__ = ["Fleet", "Job", "Outcome", "jobs_of", "read_jobs"]
