# Included by the Snakefile and by the module of each paper: the scale, the environment of jobs, and
# the lock that a killed Snakemake does not leave behind.

import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")  # the first release that reads profiles/default/profile.yaml

sys.path.insert(
    0, str(Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent)
)

from common.runs import dag

os.environ.update(dag.job_environment())
with dag.plain_errors():
    dag.check_checkout()
    SCALE = dag.read_scale(config)


onstart:
    with dag.plain_errors():
        dag.hold_lock()
    # Snakemake limits how many jobs start in a second, and looks at its queue again a second after
    # each look: every job that ends adds one more look a second, to the very end. On one machine
    # there is nothing to limit. Snakemake's own work on 459 jobs of 0.3 s on two cores: 35 CPU
    # seconds and 14,607 looks; without the limit 10.5 and 458, with the greedy scheduler of
    # profiles/default as well 6.5 (the greedy scheduler alone: 24.6, with 16 jobs a look: 21.1).
    if workflow.local_exec:
        workflow.scheduler.job_rate_limiter = None
        # With conda or containers jobs have another python.
        if not workflow.deployment_settings.deployment_method:
            prefix = dag.warm_python(dag.journal(SCALE))
            shell.prefix(prefix.replace("{", "{{").replace("}", "}}"))
