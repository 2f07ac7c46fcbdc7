"""What is checked before the first download: what the task needs from this machine and its environment.

Notable: all that can be known early is said early; a build that would fail after ten minutes fails in one second.
"""

from __future__ import annotations

import importlib.util
import os

from locum.core.errors import UserError
from locum.core.extras import install_command
from locum.fit.device import profile_device, require_engine
from locum.schema.kinds import Method
from locum.schema.task import Task

_TRAINING_PACKAGES = ("torch", "transformers", "safetensors", "onnx")
_WITHOUT_PYTORCH: tuple[Method, ...] = ("linear", "prompt", "few_shot")
_SCORERS = {"summarise": ("rouge_score",), "translate": ("sacrebleu",), "chat": ("langdetect", "nltk", "rouge_score")}
"""Packages that score a form of task, all of the extra ``tasks``."""


def check_environment(task: Task) -> None:
    """Refuse a build that cannot end.

    Raises:
        UserError: an extra that the build needs is not installed, or the LLM's key is not in the environment.
        DeviceError: the processor lacks what the engines need.
    """
    untrained = task.students != "auto" and all(spec.method in _WITHOUT_PYTORCH for spec in task.students)
    if not untrained:
        require_training()
    require_scorers(task)
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
            fix=install_command("train"),
        )


def require_scorers(task: Task) -> None:
    """Refuse a task whose answers cannot be scored here.

    Raises:
        UserError: ``core-missing-extra``.
    """
    missing = [name for name in _SCORERS.get(task.form, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            "core-missing-extra",
            f"scoring {task.form} needs {', '.join(missing)}, which this environment does not have",
            fix=install_command("tasks"),
        )
