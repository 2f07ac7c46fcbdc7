"""The environment of child processes with native code in them: what they need, and none of the service's secrets.

Notable: an allow-list. Keys of servers stand in the environment, and a library that is made to misbehave by a file of
strangers could read them there. Not here: who starts a child.
"""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "TZ", "TERM", "VIRTUAL_ENV"),
        *("TMPDIR", "TEMP", "TMP", "LANG", "LANGUAGE", "HF_HOME"),
        # what Windows needs to start a program and to find its folders
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA"),
        *("PROGRAMDATA", "PROGRAMFILES", "NUMBER_OF_PROCESSORS"),
    }
)
_PREFIXES = (
    # the loader and the interpreter
    *("LD_", "DYLD_", "PYTHON", "LC_", "XDG_", "MALLOC_", "GLIBC_", "COV_CORE_", "COVERAGE_", "ASAN_", "LSAN_"),
    # threads and mathematics
    *("OMP_", "GOMP_", "KMP_", "OPENBLAS_", "MKL_", "TBB_", "ONEDNN_", "DNNL_", "NUMEXPR_", "VECLIB_", "BLIS_"),
    # engines and the devices that they look for
    *("GGML_", "LLAMA_", "OPENVINO_", "OV_", "ORT_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "VK_", "LOCUM_"),
    *("PROCESSOR_",),
)
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "AUTH")


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a child with an engine needs.

    Args:
        environment: of this process.

    Returns:
        Those of the allow-list; of these none whose name speaks of a secret, such as ``LOCUM_API_KEY``.
    """
    return {name: value for name, value in environment.items() if _is_needed(name.upper())}


def _is_needed(name: str) -> bool:
    if any(word in name for word in _SECRET):
        return False
    return name in _NAMES or name.startswith(_PREFIXES)
