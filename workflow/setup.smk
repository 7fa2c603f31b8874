# Included by every entry point, that is the top Snakefile and each paper's: the scale, the
# environment of jobs, and the lock that a killed Snakemake does not leave behind.

import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")  # the first release that reads profiles/default/profile.yaml

sys.path.insert(
    0, str(Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent)
)

from common import dag

os.environ.update(dag.job_environment())
with dag.plain_errors():
    dag.check_checkout()
    SCALE = dag.scale_of(config)


onstart:
    with dag.plain_errors():
        dag.hold_lock()
