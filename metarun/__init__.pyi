from metarun.api import FinishedRun as FinishedRun
from metarun.api import evaluate as evaluate
from metarun.api import load as load
from metarun.api import preparation as preparation
from metarun.api import train as train
from metarun.experiment.errors import ConfigError as ConfigError

__version__: str
