"""What is checked before the first download: what the task needs from this machine and its environment.

Notable: all that can be known early is said early; a build that would fail after ten minutes fails in one second.
"""

from __future__ import annotations

import importlib.util
import os

from locum.core.errors import UserError
from locum.fit.device import profile_device, require_engine
from locum.schema.task import Task

_TRAINING_PACKAGES = ("torch", "transformers", "safetensors", "onnx")


def check_environment(task: Task) -> None:
    """Refuse a build that cannot end.

    Raises:
        UserError: the training extra is not installed, or the LLM's key is not in the environment.
        DeviceError: the processor lacks what the engines need.
    """
    only_linear = task.students != "auto" and all(spec.method == "linear" for spec in task.students)
    if not only_linear:
        require_training()
    llm = task.llm
    if llm is not None and llm.api_key_env and not os.environ.get(llm.api_key_env):
        raise UserError(
            "upstream-key-missing",
            f"llm.api_key_env names {llm.api_key_env}, and that variable is not set",
            fix=f"export {llm.api_key_env}=… before the build",
        )
    require_engine(profile_device(), "onnx")


def require_training() -> None:
    """Refuse what needs PyTorch where it is not installed.

    Raises:
        UserError: ``core-missing-extra``.
    """
    missing = [name for name in _TRAINING_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            "core-missing-extra",
            f"building needs {', '.join(missing)}, which this environment does not have",
            fix="pip install 'locum[train]'",
        )
