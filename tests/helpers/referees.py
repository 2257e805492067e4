"""What results are compared with: other libraries, imported when a test first asks them.

Each takes seconds to import, which collecting the tests, in every process that runs some, need not wait for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Referee:
    """A function, class or module of another library, imported at its first use.

    Args:
        module: its dotted name.
        name: in the module; None: the module itself.
    """

    def __init__(self, module: str, name: str | None = None) -> None:
        self._module, self._name = module, name

    def _load(self) -> Any:
        module = import_module(self._module)
        return module if self._name is None else getattr(module, self._name)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._load()(*arguments, **keywords)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") or "pytest" in attribute:  # collecting looks at every name of a test module so
            raise AttributeError(attribute)
        return getattr(self._load(), attribute)


stats = Referee("scipy.stats")
chisquare = Referee("scipy.stats", "chisquare")
multivariate_normal = Referee("scipy.stats", "multivariate_normal")
interp1d = Referee("scipy.interpolate", "interp1d")
brentq = Referee("scipy.optimize", "brentq")
minimize = Referee("scipy.optimize", "minimize")
roc_auc_score = Referee("sklearn.metrics", "roc_auc_score")
calibration_curve = Referee("sklearn.calibration", "calibration_curve")
GaussianProcessRegressor = Referee("sklearn.gaussian_process", "GaussianProcessRegressor")
DotProduct = Referee("sklearn.gaussian_process.kernels", "DotProduct")
NearestCentroid = Referee("sklearn.neighbors", "NearestCentroid")
LogisticRegression = Referee("sklearn.linear_model", "LogisticRegression")
OneVsRestClassifier = Referee("sklearn.multiclass", "OneVsRestClassifier")
LinearSVC = Referee("sklearn.svm", "LinearSVC")
load_digits = Referee("sklearn.datasets", "load_digits")
torchvision_functional = Referee("torchvision.transforms.v2.functional")
Api = Referee("wandb.apis.public", "Api")
Figure = Referee("matplotlib.figure", "Figure")
imread = Referee("matplotlib.image", "imread")
